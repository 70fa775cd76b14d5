"""Defective strips found and clean ones stopped, and how sure their shares are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel.metrics.counts import INTERSECTION, PREDICTED, TRUE
from steel.metrics.curves import wilson_interval
from steel.metrics.scores import Outcome
from steel.reports.strips import count_strips


def answered(said: np.ndarray, groups: np.ndarray | None) -> Outcome:
    """As many defective strips, of one class, of which those are stopped."""
    counts = np.zeros((len(said), 1, 3), np.int64)
    counts[..., TRUE] = 100
    counts[said, :, INTERSECTION] = counts[said, :, PREDICTED] = 100
    return Outcome(np.arange(len(said)), counts, np.ones((len(said), 2), bool), groups=groups)


def found_interval(said: np.ndarray, groups: np.ndarray | None) -> list[float] | None:
    return count_strips(answered(said, groups), ["spot"])["spot"]["found_interval"]


def test_strips_of_their_own_have_wilson_intervals() -> None:
    said = np.arange(30) % 3 > 0
    for groups in (None, np.arange(30)):
        assert found_interval(said, groups) == pytest.approx(wilson_interval(20, 30))
    counted = count_strips(answered(said, None), ["spot"])["any"]
    assert (counted["defective"], counted["found"], counted["missed"]) == (30, 20, 10)
    assert counted["stopped_interval"] is None  # no strip is clean


def test_strips_of_few_groups_have_no_interval() -> None:
    for num, has_one in ((5, False), (6, True)):
        groups = np.arange(300) % num
        assert (found_interval(groups > 1, groups) is not None) == has_one


def test_copies_of_strips_do_not_narrow_the_interval() -> None:
    """Of 300 strips in 60 groups that are alike it is that of 60, by theory: 1.96 standard errors."""
    said = np.arange(60) % 3 > 0
    low, high = found_interval(np.repeat(said, 5), np.repeat(np.arange(60), 5)) or (0, 0)
    half = 1.96 * np.sqrt(2 / 9 / 60)
    assert (low, high) == pytest.approx((2 / 3 - half, 2 / 3 + half), abs=0.15 * half)


NUM_GROUPS = st.integers(6, 60)
SIZE = st.integers(2, 20)


@given(groups=st.lists(st.integers(0, 30), min_size=30), seed=st.integers(0, 9), share=st.floats(0, 1))
def test_groups_never_make_an_interval_narrower(groups: list[int], seed: int, share: float) -> None:
    said = np.random.default_rng(seed).random(len(groups)) < share
    span, without = (found_interval(said, of) for of in (np.array(groups), None))
    assert without is not None
    assert span is None or (span[0] <= without[0] + 1e-12 and span[1] >= without[1] - 1e-12)


@given(groups=st.lists(st.integers(0, 30), min_size=30), seed=st.integers(0, 9), share=st.floats(0, 1))
def test_no_answers_bound_lies_beyond_that_of_none_or_all(groups: list[int], seed: int, share: float) -> None:
    strips = np.random.default_rng(seed).random(len(groups))
    spans = [found_interval(strips < limit, np.array(groups)) for limit in (0, share, 2)]
    assert spans == sorted(spans, key=lambda span: span or [])
    highs = [span[1] for span in spans if span is not None]
    assert highs == sorted(highs)


@given(num_groups=NUM_GROUPS, size=SIZE, whole=st.booleans())
def test_bounds_grow_with_the_strips_that_are_found(num_groups: int, size: int, *, whole: bool) -> None:
    """Whole groups, or one strip of each."""
    groups = np.repeat(np.arange(num_groups), size)
    first = np.arange(num_groups * size) % size == 0
    spans = [found_interval((groups < k) & (whole | first), groups) for k in range(num_groups + 1)]
    for bounds in zip(*(span or () for span in spans), strict=True):
        assert bounds == tuple(sorted(bounds))


def test_rare_strips_have_intervals_among_a_few_pairs() -> None:
    """600 strips, 15 pairs among them: nearly Wilson's, which bootstraps of a rare share are far from."""
    groups = np.concatenate([np.arange(585), np.arange(15)])
    for num in range(4):
        said = (np.arange(600) >= 100) & (np.arange(600) < 100 + num)
        assert found_interval(said, groups) == pytest.approx(wilson_interval(num, 600), rel=0.06)
    halves = np.arange(100) % 2 == 0
    assert found_interval(halves, np.arange(100) // 2) == pytest.approx(wilson_interval(50, 100))


@pytest.mark.parametrize("is_found", [False, True])
def test_where_all_strips_go_one_way_the_interval_is_that_of_the_groups(is_found: bool) -> None:
    """Resamples would all be alike, and say that no other strip can go another way."""
    span = found_interval(np.full(300, is_found), np.arange(300) // 30)
    assert span == pytest.approx(wilson_interval(10 * is_found, 10))


def test_a_class_whose_strips_are_alone_keeps_its_interval_beside_copies_of_others() -> None:
    """Eight strips of it, two found; of a hundred others each has a copy. Resamples of all might hold none of it."""
    counts = np.zeros((208, 2, 3), np.int64)
    counts[:8, 0, TRUE] = counts[8:, 1, TRUE] = 100
    counts[:2, 0, PREDICTED] = 100
    groups = np.concatenate([np.arange(8), 8 + np.repeat(np.arange(100), 2)])
    outcome = Outcome(np.arange(208), counts, np.ones((208, 3), bool), groups=groups)
    counted = count_strips(outcome, ["spot", "scratch"])
    assert counted["spot"]["found_interval"] == pytest.approx(wilson_interval(2, 8))
    assert counted["scratch"]["found_interval"] == pytest.approx(wilson_interval(0, 100))
