"""Batches are the same bytes, whether their samples are decoded or copied from the node's disk."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from steel.config import SamplingConfig, TransformConfig
from steel.loading.augment import TRANSFORMS, Augmenter
from steel.loading.eval_loader import eval_batches
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import train_batches
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine.batch_plan import MicroBatchRange

NUM = 11

pytestmark = pytest.mark.usefixtures("no_children")


@pytest.fixture(scope="module", params=[1, 3])
def shards(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Images of two sizes, gray or in colour; the last was stored at half its size."""
    sizes = [(32, 64), (30, 60)]
    images = [steel_image(n, *sizes[n % 2], request.param) for n in range(NUM)]
    bitmasks = [defect_mask(n, *sizes[n % 2]) for n in range(NUM - 1)] + [defect_mask(10, 64, 128)]
    return make_shards(tmp_path_factory.mktemp("data") / "shards", images, bitmasks)


def holding(shards: Path, folder: Path) -> ShardReader:
    reader = ShardReader(shards)
    reader.keep_decoded(folder, 1 << 30)
    return reader


def augmenter_of(transforms: dict[str, TransformConfig]) -> Augmenter:
    return Augmenter(transforms, (24, 40), SamplingConfig(), num_classes=3, ignore_bit=None)


def training_bytes(reader: ShardReader, workers: int) -> list[bytes]:
    """Of 24 micro-batches of 4, which come across every sample several times, under every transform."""
    augmenter = augmenter_of({name: TransformConfig(p=0.5) for name in TRANSFORMS})
    sampler = build_sampler(np.arange(NUM), reader.index.areas, SamplingConfig(), seed=5, phase=0)
    places = (MicroBatchRange(n, 0, range(n * 4, n * 4 + 4)) for n in range(24))
    batches = train_batches(reader, sampler, augmenter, places, seed=5, phase=0, workers=workers)
    return [_bytes(batch.images) + _bytes(batch.targets) for batch in batches]


def evaluation_bytes(reader: ShardReader, workers: int) -> list[bytes]:
    batches = eval_batches(reader, np.arange(NUM), pixels_per_pass=3 * 32 * 64, stride=32, workers=workers)
    return [_bytes(batch.images) + b"".join(mask.tobytes() for mask in batch.bitmasks) for batch in batches]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_bytes(shards: Path, tmp_path: Path, workers: int) -> None:
    plain = ShardReader(shards)
    expected = training_bytes(plain, 0), evaluation_bytes(plain, 0)
    for _ in range(2):  # an empty cache, a full one
        reader = holding(shards, tmp_path)
        assert (training_bytes(reader, workers), evaluation_bytes(reader, workers)) == expected


def test_a_transform_alone_takes_an_image_that_cannot_be_written(shards: Path, tmp_path: Path) -> None:
    reader = holding(shards, tmp_path)
    for name in TRANSFORMS:
        augmenter = augmenter_of({name: TransformConfig(p=1)})
        for row in range(3):
            made = [augmenter(*_image_and_mask(reader, row), seed=row) for _ in range(2)]
            assert all(np.array_equal(a, b) for a, b in zip(*made, strict=True))


def _image_and_mask(reader: ShardReader, row: int) -> Iterable[np.ndarray]:
    sample = reader.read(row)
    return sample.image, sample.bitmask
