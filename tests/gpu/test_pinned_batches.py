"""Batches in pinned memory: copied to the GPU beside computation, with the bytes that the workers made."""

from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from steel.config import SamplingConfig, TransformConfig
from steel.loading.augment import Augmenter
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import MicroBatch, train_batches, unpack_targets
from steel.shards.reader import ShardReader
from tests.shard_folder import small_shards

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


class Place(NamedTuple):
    index: int
    positions: range


def train_generator(
    reader: ShardReader, workers: int, *, pin_memory: bool = True, pin_in_place: bool = False
) -> Generator[MicroBatch, None, None]:
    """Always the same 40 micro-batches."""
    order = build_sampler(np.arange(len(reader)), reader.index.areas, SamplingConfig(), seed=0, phase=0)
    cut = Augmenter({"hflip": TransformConfig(), "affine": TransformConfig()}, (24, 32), SamplingConfig(), 3, None)
    places = [Place(0, range(start, start + 4)) for start in range(0, 160, 4)]
    return train_batches(
        reader,
        order,
        cut,
        places,
        seed=0,
        phase=0,
        workers=workers,
        pin_memory=pin_memory,
        pin_in_place=pin_in_place,
    )


def load(reader: ShardReader, workers: int, pin_memory: bool) -> list[MicroBatch]:
    return list(train_generator(reader, workers, pin_memory=pin_memory))


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_reach_the_gpu_unchanged(tmp_path: Path, workers: int) -> None:
    torch.zeros(1, device="cuda")  # workers are forked from a process that uses CUDA already
    reader = ShardReader(small_shards(tmp_path / "shards"))
    plain = load(reader, 0, False)
    pinned = load(reader, workers, True)
    assert len(plain) == 40
    assert all(batch.images.is_pinned() and batch.targets.is_pinned() for batch in pinned)
    moved = [(b.images.cuda(non_blocking=True), b.targets.cuda(non_blocking=True)) for b in pinned]
    for batch, (images, targets) in zip(plain, moved, strict=True):
        assert torch.equal(batch.images, images.cpu())
        assert torch.equal(batch.targets, targets.cpu())
        for near, far in zip(unpack_targets(batch.targets, 3), unpack_targets(targets, 3), strict=True):
            assert torch.equal(near, far.cpu())
