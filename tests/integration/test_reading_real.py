"""Real images and masks through sharding, reading and augmentation. Needs STEEL_REAL_DATA; skips itself without."""

import csv
import os
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_prep.__main__ import main
from steel.config import PhaseConfig, SamplingConfig, TransformConfig
from steel.labels.rle import decode_rle
from steel.loading.augment import Augmenter
from steel.loading.eval_loader import eval_batches
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import MicroBatch, train_batches, unpack_targets
from steel.shards.reader import ShardReader
from train.engine.batch_plan import plan_phases

REAL = os.environ.get("STEEL_REAL_DATA")
pytestmark = pytest.mark.skipif(REAL is None, reason="STEEL_REAL_DATA is not set")
NAMES = (
    *("hflip", "vflip", "rotate90", "affine", "brightness_contrast", "gamma", "noise", "blur"),
    *("blackout", "side_bars"),
)


@pytest.fixture(scope="module")
def sample() -> Path:
    return Path(str(REAL)) / "severstal_sample"


@pytest.fixture(scope="module")
def reader(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    out = tmp_path_factory.mktemp("real") / "shards"
    paths = {"--images": sample / "train_images", "--labels": sample / "train.csv", "--out": out}
    options = [str(part) for option in paths.items() for part in option]
    assert main([*options, "--shard-size", "15", "--workers", "1"]) == 0
    return ShardReader(out)


def load(reader: ShardReader, transforms: tuple[str, ...], sampling: SamplingConfig, workers: int) -> list[MicroBatch]:
    sampler = build_sampler(np.arange(len(reader)), reader.index.areas, sampling, seed=1, phase=0)
    phase = PhaseConfig("crops", 2, (256, 512), 8, 4, lr=1e-3, sampling=sampling)
    (plan,) = plan_phases((phase,), [sampler.epoch_length], 1, rank=0, world=1)
    cut = Augmenter(
        {name: TransformConfig() for name in transforms}, phase.crop, sampling, reader.manifest.num_classes, None
    )
    places = plan.micro_batches(0)
    return list(train_batches(reader, sampler, cut, places, seed=1, phase=0, workers=workers))


def test_images_and_masks_are_those_of_the_files(reader: ShardReader, sample: Path) -> None:
    texts: dict[str, dict[int, str]] = defaultdict(dict)
    with open(sample / "train.csv", newline="") as file:
        for row in csv.DictReader(file):
            texts[row["ImageId"]][int(row["ClassId"])] = row["EncodedPixels"]
    assert len(reader) == len(list((sample / "train_images").iterdir()))
    assert reader.manifest.channels == 1
    for row in range(len(reader)):
        image_id = reader.index.image_id(row)
        read = reader.read(row)
        expected = cv2.imread(str(sample / "train_images" / image_id), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(read.image, expected)
        for class_id in range(1, 5):
            text = texts[image_id].get(class_id, "")
            mask = decode_rle(text, 256, 1600)
            assert np.array_equal(read.bitmask >> (class_id - 1) & 1, mask)
            assert reader.index.areas[row, class_id - 1] == mask.sum()


def test_training_batches_with_every_transform_do_not_depend_on_workers(reader: ShardReader) -> None:
    alone, spread = (load(reader, NAMES, SamplingConfig(order="balanced"), workers) for workers in (0, 2))
    assert len(alone) == len(spread) == 2 * 11
    for a, b in zip(alone, spread, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)


def test_focused_crops_show_their_class_and_few_crops_are_black(reader: ShardReader) -> None:
    transforms = tuple(n for n in NAMES if n != "blackout")
    sampling = SamplingConfig(order="balanced", defect_crop=1.0)
    sampler = build_sampler(np.arange(len(reader)), reader.index.areas, sampling, seed=1, phase=0)
    black = []
    for batch in load(reader, transforms, sampling, workers=2):
        masks, valid = unpack_targets(batch.targets, 4)
        assert valid.mean() > 0.8
        for i, position in enumerate(batch.positions.tolist()):
            target_class = int(sampler.samples_at(np.array([position])).target_classes[0])
            assert target_class == 0 or masks[i, target_class - 1].any()
        black += [(image <= 10).float().mean().item() for image in batch.images]
    assert np.mean(np.array(black) > 0.9) < 0.1


def test_evaluation_shows_whole_images_with_their_whole_masks(reader: ShardReader) -> None:
    seen = {}
    for batch in eval_batches(reader, np.arange(len(reader)), pixels_per_pass=8 * 256 * 1600, stride=32, workers=2):
        assert batch.images.shape == (8, 1, 256, 1600)
        for row, image, bitmask in zip(batch.rows.tolist(), batch.images, batch.bitmasks, strict=False):
            seen[row] = True
            assert np.array_equal(image[0].numpy(), reader.read(row).image)
            assert np.array_equal(bitmask, reader.read(row).bitmask)
    assert sorted(seen) == list(range(len(reader)))
