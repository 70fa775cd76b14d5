"""Copy-paste: what a pasted defect looks like, where it may lie, and whose it is."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steel.config import SamplingConfig
from steel.errors import InputError
from steel.loading.augment import Augmenter
from steel.loading.paste import Donor, paste_defect
from steel.loading.sampler import Sampler, Samples, build_sampler
from steel.loading.train_loader import MicroBatch, train_batches
from steel.shards.reader import BadSampleError, ShardReader
from tests.shard_folder import small_shards
from tests.training_batches import NUM, damaged_shards, plan

CLASS_3, INVALID = 0b0100, 0b10000


def donor(level: int = 100, *, rows: slice = slice(20, 26), columns: slice = slice(30, 34)) -> Donor:
    """Steel of one level with a defect of half of it."""
    image, target = np.full((48, 64), level, np.uint8), np.zeros((48, 64), np.uint8)
    image[rows, columns], target[rows, columns] = level // 2, CLASS_3
    return Donor(image, target, class_id=3)


def bare(level: int = 100, size: tuple[int, int] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    return np.full(size, level, np.uint8), np.zeros(size, np.uint8)


def box_of(target: np.ndarray) -> tuple[int, int, int, int]:
    """First row, last row, first column and last column that are marked."""
    rows, columns = np.nonzero(target)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("level", [60, 100, 180])
def test_a_defect_is_as_dark_against_its_new_surroundings_as_it_was(level: int) -> None:
    image, target = bare(level)
    pasted, marked = paste_defect(Random(1), image, target, donor())
    first, last, left, right = box_of(marked)
    assert (last - first, right - left) == (5, 3)
    assert set(np.unique(marked)) == {0, CLASS_3}
    assert np.unique(pasted[marked == CLASS_3]).tolist() == [level // 2]
    assert np.abs(pasted[marked == 0].astype(int) - level).max() <= 1  # the margins agree, so nothing shows there
    assert image.min() == level and not target.any(), "what was given has changed"


def test_surroundings_are_imitated_up_to_twice_as_bright() -> None:
    pasted, marked = paste_defect(Random(1), *bare(250), donor(level=40))
    assert np.unique(pasted[marked > 0]).tolist() == [40]  # twice 20


def test_a_defect_lies_anywhere_and_turned_over_either_way() -> None:
    lopsided = donor()
    lopsided.image[20, 30] = 70  # in one corner of the defect
    corners, places = set(), set()
    for seed in range(200):
        pasted, marked = paste_defect(Random(seed), *bare(), lopsided)
        first, last, left, right = box_of(marked)
        assert min(first, left, 39 - last, 49 - right) >= 4, "a whole defect keeps its margin"
        places.add((first, left))
        ((row, column),) = np.argwhere(pasted == 70)
        corners.add((row == first, column == left))
    assert len(corners) == 4
    assert len(places) > 150


def test_defects_pixels_without_truth_and_what_lies_beside_the_strip_are_not_pasted_over() -> None:
    image, target = bare()
    image[:, :12], target[:14, 12:], target[30:, 12:] = 0, 0b0001, INVALID
    for seed in range(50):
        pasted, marked = paste_defect(Random(seed), image, target, donor())
        assert np.array_equal(pasted[:, :12], image[:, :12])
        assert np.array_equal(marked[:14], target[:14]) and np.array_equal(marked[30:], target[30:])
    image[:, 12:] = 0
    pasted, marked = paste_defect(Random(0), image, target, donor())
    assert pasted is image and marked is target, "there is no room at all"


@pytest.mark.parametrize("seed", range(8))
def test_a_defect_that_an_edge_cuts_stays_at_an_edge(seed: int) -> None:
    _, marked = paste_defect(Random(seed), *bare(), donor(rows=slice(0, 6)))
    first, last, left, right = box_of(marked)
    assert (first == 0) != (last == 39)  # it may be turned over
    assert left >= 4 and right <= 45
    across = donor(rows=slice(0, 48))  # from edge to edge of an image that is higher than the crop
    _, marked = paste_defect(Random(seed), *bare(), across)
    assert box_of(marked)[:2] == (0, 39)
    pasted, _ = paste_defect(Random(seed), *(given := bare(size=(60, 50))), across)
    assert pasted is given[0], "it cannot end within a higher crop"


def test_only_one_connected_defect_is_pasted_and_other_classes_within_it_stay() -> None:
    two = donor()
    two.target[40:44, 50:56], two.image[40:44, 50:56] = CLASS_3, 50
    two.target[22, 31] |= 0b0010
    sizes = {int((paste_defect(Random(s), *bare(), two)[1] > 0).sum()) for s in range(30)}
    assert sizes == {24}  # 6 x 4 either way, never both
    kinds = {tuple(np.unique(paste_defect(Random(s), *bare(), two)[1]).tolist()) for s in range(30)}
    assert kinds == {(0, 4), (0, 4, 6)}


def test_without_the_class_or_bare_steel_around_it_nothing_is_pasted() -> None:
    given = bare()
    for without in (donor()._replace(class_id=2), donor(rows=slice(0, 48), columns=slice(0, 64))):
        assert paste_defect(Random(0), *given, without)[0] is given[0]


@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    donor_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    colour=st.booleans(),
)
def test_any_sizes_agree(seed: int, size: tuple[int, int], donor_size: tuple[int, int], colour: bool) -> None:
    rng = np.random.default_rng(seed)
    channels = (3,) if colour else ()
    image, target = rng.integers(0, 256, (*size, *channels), np.uint8), np.zeros(size, np.uint8)
    other = Donor(
        rng.integers(0, 256, (*donor_size, *channels), np.uint8),
        np.where(rng.random(donor_size) < 0.3, CLASS_3, 0).astype(np.uint8),
        class_id=3,
    )
    pasted, marked = paste_defect(Random(seed), image, target, other)
    assert (pasted.shape, pasted.dtype, marked.shape, marked.dtype) == (image.shape, np.uint8, size, np.uint8)
    assert set(np.unique(marked)) <= {0, CLASS_3}
    if not marked.any():
        assert np.array_equal(pasted, image)


# --- whose defects -------------------------------------------------------------------------------------------------


def areas() -> np.ndarray:
    """1,000 samples: class 1 in 12 of them, class 2 in 3, class 3 in none."""
    found = np.zeros((1000, 3), np.int32)
    found[100:112, 0], found[[10, 500, 999], 1] = 50, 70
    return found


@pytest.mark.parametrize("order", ["natural", "balanced"])
def test_a_class_is_pasted_the_more_often_the_fewer_samples_have_it(order: str) -> None:
    sampling = SamplingConfig(order=order, paste=0.3)  # type: ignore[arg-type]
    rows = np.arange(1000)[1:]  # 999 of them train
    sampler = build_sampler(rows, areas(), sampling, seed=1, phase=0)
    donors, classes = sampler.donors_at(np.arange(20_000))
    assert np.bincount(classes, minlength=4) / 20_000 == pytest.approx([0.7, 0.06, 0.24, 0], abs=0.012)
    assert set(donors[classes == 2].tolist()) == {10, 500, 999}
    of_class_1 = np.bincount(donors[classes == 1], minlength=1000)
    assert set(np.flatnonzero(of_class_1).tolist()) == set(range(100, 112))
    assert of_class_1[100:112] == pytest.approx(100, abs=40)
    one_by_one = [sampler.donors_at(np.array([place])) for place in range(100)]
    assert [int(one.rows[0]) for one in one_by_one] == donors[:100].tolist()


def test_nothing_is_pasted_unless_asked_for_or_without_any_defect() -> None:
    places = np.arange(500)
    for sampling, of in ((SamplingConfig(), areas()), (SamplingConfig(paste=1.0), np.zeros((1000, 3), np.int32))):
        sampler = build_sampler(np.arange(1000), of, sampling, seed=1, phase=0)
        assert not sampler.donors_at(places).target_classes.any()


def test_windows_of_shards_have_no_defects_of_others() -> None:
    sampling = SamplingConfig(paste=0.5, window_shards=2)
    with pytest.raises(InputError, match="windows need paste 0"):
        build_sampler(np.arange(1000), areas(), sampling, seed=1, phase=0, shards=np.arange(1000) // 100)


def test_a_probability_is_one() -> None:
    with pytest.raises(InputError, match=r"sampling.paste: 1.5 is not in \[0, 1\]"):
        SamplingConfig(paste=1.5)


# --- in training batches -------------------------------------------------------------------------------------------


class SameDonor:
    """A sampler with one donor for all samples."""

    def __init__(self, sampler: Sampler, row: int) -> None:
        self.samples_at, self.epoch_length, self.row = sampler.samples_at, sampler.epoch_length, row

    def donors_at(self, positions: np.ndarray) -> Samples:
        return Samples(np.full(len(positions), self.row), np.ones(len(positions), np.int64))


def batches(
    reader: ShardReader,
    paste: float,
    *,
    donor_row: int | None = None,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> list[MicroBatch]:
    """With defects of all samples, or of one alone."""
    sampling = SamplingConfig(paste=paste, defect_crop=0)
    sampler = build_sampler(np.arange(NUM), reader.index.areas, sampling, seed=5, phase=1)
    if donor_row is not None:
        sampler = SameDonor(sampler, donor_row)
    manifest = reader.manifest
    augmenter = Augmenter({}, (32, 48), sampling, manifest.num_classes, manifest.ignore_bit)
    places = plan(rank, world).micro_batches(0)
    return list(train_batches(reader, sampler, augmenter, places, seed=5, phase=1, workers=workers))


def test_training_sees_pasted_defects_the_same_for_any_workers_and_ranks(tmp_path: Path) -> None:
    reader = ShardReader(small_shards(tmp_path / "shards", NUM))
    alone = batches(reader, 1.0)
    without = batches(reader, 0.0)
    gained = [int((a.targets > 0).sum() - (b.targets > 0).sum()) for a, b in zip(alone, without, strict=True)]
    assert min(gained) >= 0 and sum(gain > 0 for gain in gained) > len(gained) / 2
    shared = {}
    for rank in (0, 1):
        shared |= {tuple(b.positions.tolist()): b for b in batches(reader, 1.0, workers=rank, rank=rank, world=2)}
    assert len(shared) == len(alone)
    for batch in alone:
        same = shared[tuple(batch.positions.tolist())]
        assert torch.equal(same.images, batch.images) and torch.equal(same.targets, batch.targets)


def test_a_damaged_donor_ends_the_run_or_is_counted(tmp_path: Path) -> None:
    damaged = damaged_shards(tmp_path / "shards")
    with pytest.raises(BadSampleError, match="row 9"):
        batches(ShardReader(damaged), 1.0, donor_row=9)
    skipping = ShardReader(damaged, on_bad_sample="skip", max_bad_samples=10_000)
    seen, plain = batches(skipping, 1.0, donor_row=9), batches(skipping, 0.0)
    samples, own = sum(len(b.rows) for b in plain), sum(b.bad_samples for b in plain)
    assert 0 < own < samples
    assert sum(b.bad_samples for b in seen) == samples  # its own places, and all that it was to be pasted into
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(seen, plain, strict=True))
