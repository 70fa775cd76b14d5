"""Gray levels of folds, worked by hand, and the same to the last bit in whatever order images come."""

import numpy as np

from data_prep.gray_levels import fold_levels, image_levels
from steel.shards.format import FoldLevels


def test_levels_by_hand() -> None:
    # Two pixels of 51 and 153 in gray; four of 255, 0 and 51 in colour.
    levels = image_levels(np.array([[204, 204, 204], [1020, 0, 204]]), np.array([2, 4]))
    assert levels.tolist() == [0.4, 0.4]


def test_the_largest_image_loses_no_digit() -> None:
    white = 255 * 2**30
    assert image_levels(np.array([[white] * 3, [white, white, white - 1]]), np.array([2**30] * 2)).tolist() == [
        1.0,
        1 - 1 / (3 * white),
    ]


def test_folds_by_hand() -> None:
    found = fold_levels(np.array([0.25, 0.75, 0.5, 0.25]), np.array([0, 3, 0, 3], np.int16), 4)
    none = FoldLevels(0, 0.0, 0.0)
    assert found == (FoldLevels(2, 0.375, 0.125), none, none, FoldLevels(2, 0.5, 0.25))


def test_no_order_of_images_changes_a_bit() -> None:
    rng = np.random.default_rng(0)
    num_pixels = rng.integers(1, 5000, 999)
    levels = image_levels(rng.integers(0, 256, (999, 3)) * num_pixels[:, None], num_pixels)
    folds = rng.integers(0, 5, 999)
    expected = fold_levels(levels, folds, 5)
    for fold, found in enumerate(expected):
        np.testing.assert_allclose([found.mean, found.std], [levels[folds == fold].mean(), levels[folds == fold].std()])
    for _ in range(20):
        order = rng.permutation(999)
        assert fold_levels(levels[order], folds[order], 5) == expected
