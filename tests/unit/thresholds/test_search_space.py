"""Limits on areas: between which they are searched, and which windows hold too little to be tried."""

import numpy as np

from steel.decision import HALF, ClassDecision
from steel.gates import NO_LIMIT
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.search_space import ClassGrid, SearchSpace, area_candidates
from steel.thresholds.tuning import Tuner, tune_thresholds
from tests.tuning_images import Images


def test_areas_are_searched_between_percentiles_of_the_training_areas() -> None:
    candidates = area_candidates(np.arange(1, 1002), SearchSpace())
    assert (candidates[0], candidates[-1]) == (21, 981)
    assert len(candidates) == SearchSpace().area_steps
    ratios = np.divide(candidates[1:], candidates[:-1])
    assert ratios.max() / ratios.min() < 1.05
    assert area_candidates(np.array([5, 6, 7, 8]), SearchSpace()) == ()  # no handful


def test_given_training_areas_bound_the_limits() -> None:
    low, high = 20, 25
    areas = np.array([[low, high], [22, 0], [high, low], [21, 22], [23, 23], [24, 24], [23, 23]])
    tuner = Tuner(Images(6).statistics(), ("none",), areas, (), SearchSpace())
    for families in tuner.search("none").families:
        minima, maxima = families["maximum area"].settings[:, 2:].T
        assert set(minima.tolist()) <= {0, *range(low, high + 1)}
        assert set(maxima.tolist()) <= {NO_LIMIT, *range(low, high + 1)}


def test_windows_that_hold_next_to_nothing_are_not_tried() -> None:
    # 4 areas of 10, 30 of 100, 4 of 1,000: the limits between them hold 0, 4, 30, ... of 38.
    areas = np.repeat([10, 100, 1000], [4, 30, 4])
    grid = ClassGrid((HALF,), (HALF,), (0, 10, 100, 1000), (10, 100, 1000, NO_LIMIT), areas)
    assert grid.allowed_windows().tolist() == [
        [False, True, True, True],  # up to 10: 4 areas are no handful
        [False, True, True, True],  # 10 to 10 is no window at all
        [False, False, True, True],
        [False, False, False, False],  # from 1,000: 4 areas again
    ]
    many = np.repeat([10, 100, 1000], [9, 90, 9])
    assert not ClassGrid((HALF,), (HALF,), (0,), (10, NO_LIMIT), many).allowed_windows()[0, 0]  # less than a tenth
    few = ClassGrid((HALF,), (HALF,), (0, 10), (10, NO_LIMIT), areas[:3])
    assert few.allowed_windows().tolist() == [[False, True], [False, False]]


def test_a_window_of_one_area_is_never_shipped() -> None:
    # Defects are never seen, and there are false alarms of every area but about 809: that is the window that pays.
    num = 60
    histograms = np.zeros((num, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 10_000
    histograms[::3, 0, 1, 0] = 500
    alarms = np.concatenate([np.geomspace(100, 700, 20), np.geomspace(900, 9000, 20)]).astype(int)
    histograms[np.arange(num) % 3 > 0, 0, 0, 255] = alarms
    statistics = EvaluationStatistics(np.arange(num), histograms, np.zeros((num, 2), np.uint8))
    areas = np.rint(np.geomspace(300, 3000, 200)).astype(int)
    (only,) = tune_thresholds(statistics, gates=("none",), training_areas=areas[:, None]).decision.classes
    held = np.count_nonzero((areas >= only.min_area) & (areas <= (only.max_area or areas.max())))
    assert held >= 20
    assert only != ClassDecision(HALF, only.label_threshold)  # what loses less is taken all the same
