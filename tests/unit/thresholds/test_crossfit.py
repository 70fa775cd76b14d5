"""How images are dealt for cross-fitting, and when a gain counts."""

import numpy as np
import pytest
from scipy import stats

from steel.thresholds.crossfit import NUM_FOLDS, Gain, deal_folds, half_width, paired_gain


def test_each_fold_has_its_share_of_every_class() -> None:
    present = np.zeros((60, 2), bool)
    present[:10, 0] = True
    present[8:13, 1] = True
    folds = deal_folds(np.arange(60), present)
    for fold in range(NUM_FOLDS):
        mine = folds.fold_of == fold
        assert np.count_nonzero(mine) == 12
        assert present[mine].sum(axis=0).tolist() == [2, 1]


def test_folds_depend_on_the_images_and_not_on_their_order() -> None:
    rng = np.random.default_rng(0)
    rows, present = rng.permutation(1000)[:50], rng.random((50, 3)) < 0.2
    order = rng.permutation(50)
    first, second = deal_folds(rows, present), deal_folds(rows[order], present[order])
    assert np.array_equal(first.fold_of[order], second.fold_of)


def test_copies_stay_together() -> None:
    groups = np.arange(40) // 3
    folds = deal_folds(np.arange(40), np.ones((40, 1), bool), groups)
    assert all(len(set(folds.fold_of[groups == group].tolist())) == 1 for group in groups)
    assert folds.num == NUM_FOLDS
    assert deal_folds(np.arange(4), np.ones((4, 1), bool), np.array([5, 5, 9, 9])).num == 2


def test_the_noise_of_different_images_is_the_standard_error_of_their_mean() -> None:
    differences = np.random.default_rng(1).normal(size=(30, 4))
    mean, noise = paired_gain(differences, np.arange(30))
    assert mean == pytest.approx(differences.mean(axis=0))
    assert noise == pytest.approx(stats.sem(differences, axis=0))


def test_copies_count_as_one_term() -> None:
    # Units of 2, 1 and 1 images with sums 3, 0 and 1: mean 4 / 4, variance of the sums 7 / 3.
    gain = Gain.of(np.array([1.0, 2.0, 0.0, 1.0]), np.array([8, 8, 3, 4]))
    assert gain.value == 1
    assert gain.noise == pytest.approx(np.sqrt(3 * 7 / 3) / 4)
    assert gain.exceeds(1.5)
    assert not gain.exceeds(1.6)


@pytest.mark.parametrize("num", [2, 7, 1000])
def test_what_one_image_gains_is_one_standard_error(num: int) -> None:
    differences = np.zeros(num)
    differences[-1] = 0.3
    gain = Gain.of(differences, np.arange(num))
    assert gain.value == pytest.approx(gain.noise)
    assert not gain.exceeds(1.1)


def test_the_interval_of_few_units_is_wider() -> None:
    """Student's t, by a table: 2.776 with 4 degrees of freedom, 1.960 with very many; half of it lies below 0."""
    assert half_width(0.95, 5) == pytest.approx(2.776, abs=5e-4)
    assert half_width(0.95, 10**6) == pytest.approx(1.960, abs=5e-4)
    assert half_width(0.99, 20) == pytest.approx(stats.t(19).ppf(0.995))
    assert half_width(0, 5) == 0
    assert not Gain.of(np.array([1.0, 2.0]), np.array([0, 0])).exceeds(half_width(0.95, 1))


def test_units_are_counted_once() -> None:
    assert deal_folds(np.arange(6), np.ones((6, 1), bool), np.array([4, 4, 9, 2, 2, 2])).num_units == 3
    assert deal_folds(np.arange(6), np.ones((6, 1), bool)).num_units == 6


def test_one_unit_or_none_says_nothing() -> None:
    assert not Gain.of(np.array([1.0, 1.0]), np.array([0, 0])).exceeds(0.1)
    assert not Gain.of(np.zeros(0), np.zeros(0, np.int64)).exceeds(0.1)
