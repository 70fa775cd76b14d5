"""Evaluation batches: every image once and whole, for any number of workers and ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steel.images.geometry import pad_image
from steel.loading.eval_loader import EvalBatch, eval_batches, plan_eval_batches
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


def collect(reader: ShardReader, **options: int) -> list[EvalBatch]:
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
    assert items == [((6,), 16, 48, 5), ((0, 1), 32, 64, 2), ((4,), 32, 64, 2), ((7,), 48, 64, 1)]
    assert plan_eval_batches(reader, np.asarray([], np.int32), pixels_per_pass=1, stride=16) == []


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
