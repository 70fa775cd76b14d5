"""Micro-batches of a small shard folder, for tests of loading, and a folder with one damaged sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from steel.config import PhaseConfig, SamplingConfig, TransformConfig
from steel.loading.augment import Augmenter
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import MicroBatch, train_batches
from steel.shards.reader import ShardReader
from tests.shard_folder import damage_image, small_shards
from train.engine.batch_plan import PhasePlan, micro_batch_share

NUM, BATCH, MICRO = 22, 8, 2
TRANSFORMS = ("hflip", "vflip", "affine", "noise", "blackout", "brightness_contrast")


@dataclass(frozen=True)
class Place:
    index: int
    positions: range


def augmenter(reader: ShardReader, *transforms: str, crop: tuple[int, int] = (24, 32)) -> Augmenter:
    manifest = reader.manifest
    chosen = {name: TransformConfig() for name in transforms}
    return Augmenter(chosen, crop, SamplingConfig(), manifest.num_classes, manifest.ignore_bit)


def plan(rank: int = 0, world: int = 1) -> PhasePlan:
    phase = PhaseConfig("p", 2, (24, 32), BATCH, MICRO, lr=1e-3)
    share = micro_batch_share(phase, rank, world)
    return PhasePlan(0, phase, NUM, validation_interval=NUM, first_global_step=0, share=share)


def load(
    reader: ShardReader, *, first: int = 0, rank: int = 0, world: int = 1, workers: int = 0
) -> Iterator[MicroBatch]:
    sampler = build_sampler(np.arange(NUM), reader.index.areas, SamplingConfig(), seed=5, phase=1)
    places = plan(rank, world).micro_batches(first)
    return train_batches(reader, sampler, augmenter(reader, *TRANSFORMS), places, seed=5, phase=1, workers=workers)


def assert_same(first: list[MicroBatch], second: list[MicroBatch]) -> None:
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.rows, b.rows)
        assert torch.equal(a.positions, b.positions)
        assert (a.index, a.bad_samples) == (b.index, b.bad_samples)
        assert a.pairs is not None and b.pairs is not None and torch.equal(a.pairs, b.pairs)


def damaged_shards(root: Path) -> Path:
    """Row 9 has a flipped bit in its image."""
    damage_image(small_shards(root, NUM), 9)
    return root
