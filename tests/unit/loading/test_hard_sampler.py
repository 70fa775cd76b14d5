"""Hard examples: which positions they stand at, whose they are, and what of the order stays as it was."""

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import SamplingConfig
from steel.errors import InputError
from steel.loading.hard_sampler import HardSampler, favour_missed, whole_percents
from steel.loading.sampler import Stream, build_sampler

AREAS = np.zeros((12, 3), np.int32)
AREAS[4:9, 0] = AREAS[8:11, 1] = AREAS[11, 2] = 50
"""4 clean images, 5 of class 1, 3 of class 2, of which one has both, and one of class 3."""


def order_of(
    hard: float, *, seed: int = 0, phase: int = 1, order: Literal["natural", "balanced"] = "natural", crop: float = 1.0
) -> Stream:
    sampling = SamplingConfig(order=order, hard=hard, defect_crop=crop)
    return build_sampler(np.arange(12), AREAS, sampling, seed=seed, phase=phase)


def hard_of(hard: float, missed: list[float | None], **of_order: object) -> HardSampler:
    sampler = favour_missed(order_of(hard, **of_order), missed)  # type: ignore[arg-type]
    assert isinstance(sampler, HardSampler)
    return sampler


# --- worked by hand ------------------------------------------------------------------------------------------------


def test_shares_worked_by_hand() -> None:
    """Class 2 is unknown and takes the mean of the other classes, (0.2 + 0.6) / 2: of 100, 0.1, 0.2, 0.4 and 0.6 of 1.3
    are 7.69, 15.38, 30.77 and 46.15, and the two that are left go where 0.77 and 0.69 were cut off."""
    assert hard_of(0.5, [0.1, 0.2, None, 0.6]).shares == (8, 15, 31, 46)
    assert hard_of(0.5, [0.2, None, None, None]).shares == (25, 25, 25, 25)  # clean images are all that is known
    assert hard_of(0.5, [0.0, 0.5, 0.5, 1.0]).shares == (0, 25, 25, 50)
    assert whole_percents([1.0, 1.0, 1.0]) == [34, 33, 33]


def test_positions_worked_by_hand() -> None:
    """Two of five, evenly: the third and the fifth. The order goes on over the others."""
    sampler, order = hard_of(0.4, [0.0, 0.0, 0.0, 1.0]), order_of(0.4)
    rows, target_classes = sampler.samples_at(np.arange(10))
    expected = order.samples_at(np.arange(6))
    others = [0, 1, 3, 5, 6, 8]
    assert rows[[2, 4, 7, 9]].tolist() == [11] * 4 and target_classes[[2, 4, 7, 9]].tolist() == [3] * 4
    assert rows[others].tolist() == expected.rows.tolist()
    assert target_classes[others].tolist() == expected.target_classes.tolist()


def test_turns_worked_by_hand() -> None:
    """Three turns of class 2 to one of class 1, which comes between the first two of these."""
    target_classes = hard_of(1.0, [0.0, 0.25, 0.75, 0.0]).samples_at(np.arange(8)).target_classes
    assert target_classes.tolist() == [2, 1, 2, 2] * 2


def test_a_stratum_without_samples_is_given_nothing() -> None:
    sampling = SamplingConfig(hard=1.0, defective_only=True)
    order = build_sampler(np.arange(11), AREAS, sampling, seed=0, phase=1)  # the image of class 3 is another fold's
    sampler = favour_missed(order, [0.9, 0.3, 0.1, 0.5])
    assert isinstance(sampler, HardSampler)
    assert [stratum.class_id for stratum in sampler.strata] == [1, 2] and sampler.shares == (75, 25)
    assert favour_missed(order, [0.9, 0.0, 0.0, 0.5]) is order


@pytest.mark.parametrize(
    ("hard", "missed"),
    [(0.0, [0.5, 0.5, 0.5, 0.5]), (0.5, []), (0.5, [0.0, 0.0, 0.0, 0.0]), (0.5, [None, None, 0.0, None])],
)
def test_the_order_stays_what_it_is(hard: float, missed: list[float | None]) -> None:
    """Without hard examples, before any validation, and where nothing was missed."""
    order = order_of(hard)
    assert favour_missed(order, missed) is order


@pytest.mark.parametrize(("crop", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_crops_are_moved_onto_the_class_as_often_as_asked(crop: float, share: float) -> None:
    rows, target_classes = hard_of(1.0, [0.0, 0.0, 1.0, 0.0], crop=crop).samples_at(np.arange(20_000))
    assert set(rows.tolist()) == {8, 9, 10} and set(target_classes.tolist()) <= {0, 2}
    assert abs((target_classes > 0).mean() - share) < 0.02


def test_windows_of_shards_have_no_hard_examples() -> None:
    sampling = SamplingConfig(hard=0.5, window_shards=2)
    with pytest.raises(InputError, match="hard examples come from all shards at once; windows need hard 0"):
        build_sampler(np.arange(12), AREAS, sampling, seed=0, phase=1, shards=np.arange(12) // 3)


def test_defects_are_pasted_as_into_the_order() -> None:
    order = build_sampler(np.arange(12), AREAS, SamplingConfig(hard=0.5, paste=0.5), seed=0, phase=1)
    expected, found = (s.donors_at(np.arange(500)) for s in (order, favour_missed(order, [0.5] * 4)))
    assert all(np.array_equal(e, f) for e, f in zip(expected, found, strict=True)) and found.target_classes.any()


# --- for whatever was missed ---------------------------------------------------------------------------------------

SHARES = st.one_of(st.none(), st.floats(0, 1))


@settings(deadline=None)
@given(
    hard=st.floats(0.01, 1),
    missed=st.lists(SHARES, min_size=4, max_size=4).filter(any),
    order=st.sampled_from(["natural", "balanced"]),
    seed=st.integers(0, 2**63 - 1),
    start=st.integers(0, 10**12),
)
def test_quotas_are_kept_and_the_stream_is_entered_anywhere(
    hard: float, missed: list[float | None], order: Literal["natural", "balanced"], seed: int, start: int
) -> None:
    """Hard positions to one, each stratum's share within rounding at any of them, each of its samples once before any
    again; between them the order, of which nothing is lost."""
    sampler, plain = hard_of(hard, missed, order=order, seed=seed), order_of(hard, order=order, seed=seed)
    positions = np.arange(2000)
    rows, target_classes = sampler.samples_at(positions)
    is_hard = np.diff(np.floor(np.arange(2001) * hard)) > 0
    num_hard = np.count_nonzero(is_hard)
    assert num_hard == math.floor(2000 * hard)
    expected = plain.samples_at(np.arange(2000 - num_hard))
    assert np.array_equal(rows[~is_hard], expected.rows)
    assert np.array_equal(target_classes[~is_hard], expected.target_classes)

    so_far = np.arange(1, num_hard + 1)
    for stratum, share in zip(sampler.strata, sampler.shares, strict=True):
        mine = target_classes[is_hard] == stratum.class_id
        assert np.all(np.abs(np.cumsum(mine) - so_far * share / 100) < 2)
        assert np.all(np.cumsum(mine)[99::100] == so_far[99::100] // 100 * share)
        size = len(stratum.rows)
        drawn = rows[is_hard][mine]
        whole = drawn[: len(drawn) // size * size].reshape(-1, size)
        assert np.array_equal(np.sort(whole, axis=1), np.tile(stratum.rows, (len(whole), 1)))

    there = start + np.arange(300)
    many = sampler.samples_at(there)
    assert np.array_equal(sampler.samples_at(there[::-1]).rows[::-1], many.rows)
    for place in (0, 1, 7, 299):
        one = sampler.samples_at(there[place : place + 1])
        assert (one.rows[0], one.target_classes[0]) == (many.rows[place], many.target_classes[place])


def test_phases_seeds_and_rounds_draw_anew() -> None:
    def rounds(**of_order: int) -> list[tuple[int, ...]]:
        rows = hard_of(1.0, [0.0, 1.0, 0.0, 0.0], **of_order).samples_at(np.arange(200)).rows
        return [tuple(each) for each in rows.reshape(-1, 5).tolist()]

    drawn = [rounds(seed=0, phase=1), rounds(seed=1, phase=1), rounds(seed=0, phase=2)]
    assert len({tuple(each) for each in drawn}) == 3
    assert all(len(set(each)) > 20 for each in drawn)  # of 40 rounds
