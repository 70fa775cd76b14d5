"""Curves and calibration against scikit-learn, and against figures worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from steel.metrics.curves import level_counts, reliability, threshold_curve, wilson_interval


@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.random(300) < 0.2
    probs = np.clip(rng.normal(90, 50, 300) + 60 * true, 0, 255).astype(np.uint8)  # with many equal ones
    curve = threshold_curve(level_counts(probs, true))
    assert curve.average_precision == pytest.approx(average_precision_score(true, probs), abs=1e-12)
    assert curve.roc_area == pytest.approx(roc_auc_score(true, probs), abs=1e-12)


def test_a_curve_counts_what_reaches_each_threshold() -> None:
    curve = threshold_curve(level_counts(np.array([0, 10, 10, 255], np.uint8), np.array([False, True, False, True])))
    assert [curve.found[t] for t in (0, 10, 11, 255, 256)] == [2, 2, 1, 1, 0]
    assert [curve.false[t] for t in (0, 1, 10, 11, 256)] == [2, 1, 1, 0, 0]
    assert (curve.positives, curve.negatives) == (2, 2)
    assert curve.precision[10] == 2 / 3
    assert np.isnan(curve.precision[256])


def test_what_cannot_be_measured_is_nan() -> None:
    only_negative = threshold_curve(level_counts(np.array([3, 200], np.uint8), np.array([False, False])))
    assert np.isnan(only_negative.average_precision)
    assert np.isnan(only_negative.roc_area)
    assert np.isnan(only_negative.recall).all()
    nothing = reliability(np.zeros((2, 256), np.int64))
    assert np.isnan(nothing.expected_calibration_error)
    assert np.isnan(nothing.predicted).all()


def test_calibration_of_a_handful() -> None:
    """Four at 51 / 255 = 0.2, one of them true; two at 1.0, both true: |0.2 - 0.25| * 4/6 + 0 * 2/6."""
    probs = np.array([51, 51, 51, 51, 255, 255], np.uint8)
    found = reliability(level_counts(probs, np.array([True, False, False, False, True, True])), bins=10)
    assert found.counts.tolist() == [0, 4, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.predicted[1] == pytest.approx(0.2)
    assert (found.observed[1], found.observed[9]) == (0.25, 1.0)
    assert found.expected_calibration_error == pytest.approx(0.05 * 4 / 6)


def test_wilson_intervals_are_the_published_ones() -> None:
    """As in Brown, Cai and DasGupta (2001) and any table of the interval."""
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1), abs=5e-5)
    assert wilson_interval(0, 0) is None
