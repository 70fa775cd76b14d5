"""Evaluation batches: every image once and whole, for any number of workers and ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steel.images.geometry import pad_image
from steel.loading.eval_loader import EvalBatch, Truth, eval_batches, fill_targets, plan_eval_batches
from steel.shards.reader import BadSampleError, ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image
from tests.training_batches import NUM, damaged_shards

pytestmark = pytest.mark.usefixtures("no_children")


@pytest.fixture(scope="module")
def mixed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images of four sizes, two padded sizes; the last was stored at half its size."""
    sizes = [(32, 64), (30, 60), (16, 33), (40, 64)]
    images = [steel_image(n, *sizes[n % 4]) for n in range(11)]
    bitmasks = [defect_mask(n, *sizes[n % 4]) for n in range(10)] + [defect_mask(10, 32, 66)]
    root = tmp_path_factory.mktemp("mixed") / "shards"
    return make_shards(root, images, bitmasks)


def collect(reader: ShardReader, **options: Any) -> list[EvalBatch]:
    """In forward passes of three images of 32x64, which is one of 64x64."""
    return list(eval_batches(reader, np.arange(len(reader)), pixels_per_pass=3 * 32 * 64, stride=32, **options))


def test_evaluation_sees_every_image_once_and_whole(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    batches = collect(reader)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(11))
    assert {tuple(batch.images.shape) for batch in batches} == {(3, 1, 32, 64), (1, 1, 64, 64)}
    for batch in batches:
        for i, row in enumerate(batch.rows.tolist()):
            sample = reader.read(row)
            height, width = batch.sizes[i].tolist()
            assert (height, width) == sample.image.shape
            assert np.array_equal(batch.images[i, 0, :height, :width].numpy(), sample.image)
            assert np.array_equal(batch.images[i, 0].numpy(), pad_image(sample.image, *batch.images.shape[2:]))
            if row != 10:
                assert np.array_equal(batch.bitmasks[i], sample.bitmask)
        assert not batch.images[len(batch.rows) :].any()


def test_images_are_asked_for_in_the_order_of_the_batches(mixed_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ShardReader, "ask_for", lambda _, rows: asked.extend(rows))
    monkeypatch.setattr(ShardReader, "num_ahead", lambda _: 1)
    rows = [batch.rows.tolist() for batch in collect(ShardReader(mixed_shards))]
    assert asked == [row for batch in rows[1:] for row in batch]


def test_padding_mirrors_the_image() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pad_image(image, 3, 5).tolist() == [[0, 1, 2, 1, 0], [3, 4, 5, 4, 3], [0, 1, 2, 1, 0]]
    assert pad_image(image[:1, :1], 2, 2).tolist() == [[0, 0], [0, 0]]


def test_masks_of_resized_images_come_back_at_the_original_size(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    (batch, i) = next((b, i) for b in collect(reader) for i, row in enumerate(b.rows.tolist()) if row == 10)
    assert batch.sizes[i].tolist() == [16, 33]
    assert batch.bitmasks[i].any()
    assert np.array_equal(batch.bitmasks[i], defect_mask(10, 32, 66))
    assert reader.read(10).bitmask.shape == (16, 33)


def test_evaluation_batches_are_the_same_for_every_world_and_workers(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    alone = {tuple(b.rows.tolist()): b for b in collect(reader)}
    for world, workers in ((2, 0), (3, 0), (9, 0), (2, 2)):
        ranks = [collect(reader, rank=rank, world=world, workers=workers) for rank in range(world)]
        assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
        together = [b for rank in ranks for b in rank]
        assert len(together) == len(alone)
        for batch in together:
            same = alone[tuple(batch.rows.tolist())]
            assert torch.equal(batch.images, same.images)
            assert torch.equal(batch.sizes, same.sizes)
            assert all(np.array_equal(a, b) for a, b in zip(batch.bitmasks, same.bitmasks, strict=True))


def test_evaluation_takes_only_the_rows_asked_for(mixed_shards: Path) -> None:
    reader = ShardReader(mixed_shards)
    items = plan_eval_batches(reader, np.asarray([0, 1, 4, 6, 7]), pixels_per_pass=2 * 32 * 64, stride=16)
    assert [item[:4] for item in items] == [
        ((6,), 16, 48, 5),
        ((0, 1), 32, 64, 2),
        ((4,), 32, 64, 2),
        ((7,), 48, 64, 1),
    ]
    assert {item[4:] for item in items} == {(False, True)}  # bitmasks alone
    assert plan_eval_batches(reader, np.asarray([], np.int32), pixels_per_pass=1, stride=16) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keeps_bitmasks", [False, True])
def test_batches_of_a_size_come_with_targets_where_all_images_are_as_they_were(
    mixed_shards: Path, keeps_bitmasks: bool, workers: int
) -> None:
    """Four batches of 32x64, one of them with the image that is stored at half its size, and two of 64x64."""
    reader, asked = ShardReader(mixed_shards), []

    def has_targets(height: int, width: int) -> bool:
        asked.append((height, width))
        return (height, width) == (32, 64)

    usual = collect(reader)
    found = collect(reader, truth=Truth(has_targets, keeps_bitmasks), workers=workers)
    assert asked == [(32, 64), (64, 64)]
    assert [batch.targets is not None for batch in found] == [True, True, False, False, False]
    for batch, same in zip(found, usual, strict=True):
        assert torch.equal(batch.images, same.images) and torch.equal(batch.rows, same.rows)
        if keeps_bitmasks or batch.targets is None:
            assert all(np.array_equal(a, b) for a, b in zip(batch.bitmasks, same.bitmasks, strict=True))
        else:
            assert batch.bitmasks == []
        if batch.targets is None:
            continue
        assert (batch.targets.dtype, batch.targets.shape) == (torch.uint8, (3, 32, 64))
        for target, bitmask in zip(batch.targets.numpy(), same.bitmasks, strict=False):
            padded = np.full((32, 64), 1 << reader.manifest.num_classes)
            padded[: bitmask.shape[0], : bitmask.shape[1]] = bitmask
            assert np.array_equal(target, padded)
        assert torch.all(batch.targets[len(batch.rows) :] == 1 << reader.manifest.num_classes)


def test_targets_of_many_classes_with_ignored_pixels() -> None:
    """Worked by hand: eight classes want more than eight bits, of which bit 8 says that a pixel does not count."""
    targets = np.full((2, 2, 3), 7, np.int32)
    fill_targets(targets, [np.array([[1, 1 << 15 | 2]], np.uint16)], num_classes=8, ignore_bit=15)
    assert targets.tolist() == [[[1, 256 | 2, 256], [256, 256, 256]], [[256] * 3] * 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_and_counts_bad_samples(tmp_path: Path, workers: int) -> None:
    damaged = damaged_shards(tmp_path / "shards")
    with pytest.raises(BadSampleError, match="row 9"):
        collect(ShardReader(damaged), workers=workers)
    batches = collect(ShardReader(damaged, on_bad_sample="skip"), workers=workers)
    assert sum(batch.bad_samples for batch in batches) == 1
    assert sorted(row for b in batches for row in b.rows.tolist()) == [r for r in range(NUM) if r != 9]
    assert len({batch.images.shape for batch in batches}) == 1


def test_evaluation_in_colour(tmp_path: Path) -> None:
    image = steel_image(0, 20, 30, 3)
    root = make_shards(tmp_path / "s", [image], [defect_mask(1, 20, 30)])
    (batch,) = collect(ShardReader(root))
    assert batch.images.shape == (6, 3, 32, 32)
    assert np.array_equal(batch.images[0, :, :20, :30].permute(1, 2, 0).numpy(), image)
