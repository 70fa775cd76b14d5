"""Large images in tiles: what is said of them is what would be said of the whole, in a fraction of the memory."""

import dataclasses
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, stack_members
from steel.config import NetworkConfig, TilingConfig
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel
from tests.paths import ROOT

STRIDE = 4
TILING = TilingConfig(budget=1, tile=96, overlap=48)


def make_checkpoint(seed: int, in_channels: int = 1) -> Checkpoint:
    """A network that says something definite, and reaches about 15 pixels."""
    torch.manual_seed(seed)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=in_channels, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(30)
        model.classification_head.linear.weight.mul_(6)
        model.classification_head.reliance.copy_(torch.tensor([0.1, -0.05]))
    tensors = {name: tensor[None] for name, tensor in model.state_dict().items()}
    mean, std = (0.5,) * in_channels, (0.2,) * in_channels
    return Checkpoint(network, ("spot", "trace"), mean, std, tensors, tiling=TilingConfig())


def picture(height: int, width: int, channels: int = 1) -> np.ndarray:
    """Blurred noise from black to white."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    blurred = cv2.GaussianBlur(np.random.default_rng(0).random(shape, np.float32), (0, 0), 2)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def predictors(checkpoint: Checkpoint, tiling: TilingConfig = TILING, **options: object) -> tuple[Predictor, Predictor]:
    """One that takes images whole, and one that takes them in tiles."""
    in_tiles = dataclasses.replace(checkpoint, tiling=tiling)
    return tuple(
        Predictor.from_checkpoint(one, device="cpu", precision="no", **options)  # type: ignore[arg-type]
        for one in (checkpoint, in_tiles)
    )


@pytest.mark.parametrize("size", [(150, 331), (331, 150), (40, 500), (201, 203)])
def test_tiles_say_what_the_whole_says(size: tuple[int, int]) -> None:
    """Also at the seams, for all flips; the overlap is three times what the network reaches."""
    whole, in_tiles = predictors(make_checkpoint(0), tta=("hflip", "vflip", "hvflip"))
    (expected,), (found,) = whole.predict([picture(*size)]), in_tiles.predict([picture(*size)])
    assert np.ptp(expected.mask_probs) > 60
    assert found.mask_probs.shape == (2, *size)
    assert np.abs(found.mask_probs.astype(int) - expected.mask_probs).max() <= 2
    assert np.abs(found.label_probs.astype(int) - expected.label_probs).max() <= 2


def test_what_is_left_out_shows_at_the_seams() -> None:
    """The comparison can fail: tiles that share less than the network reaches differ, and there alone."""
    whole, in_tiles = predictors(make_checkpoint(0), TilingConfig(budget=1, tile=96, overlap=4))
    image = picture(96, 500)
    (expected,), (found,) = whole.predict([image]), in_tiles.predict([image])
    columns = np.flatnonzero((np.abs(found.mask_probs.astype(int) - expected.mask_probs) > 2).any(axis=(0, 1)))
    seams = [88, 168, 248, 328, 410]  # five of them, between tiles of 96 that start at 0, 80, 160, 240, 320 and 404
    assert len(columns) > 0
    assert all(min(abs(column - seam) for seam in seams) < 24 for column in columns), columns


def test_tiles_no_larger_than_a_stride_are_predicted() -> None:
    """They are made two strides large, so that they go on and share one: what is asked for leaves no step."""
    _, least = predictors(make_checkpoint(0), TilingConfig(budget=1, tile=STRIDE, overlap=STRIDE // 2))
    _, same = predictors(make_checkpoint(0), TilingConfig(budget=1, tile=2 * STRIDE, overlap=STRIDE))
    (found,), (expected,) = least.predict([picture(6, 39)]), same.predict([picture(6, 39)])
    assert np.array_equal(found.mask_probs, expected.mask_probs) and np.ptp(found.mask_probs) > 60
    assert np.array_equal(found.label_probs, expected.label_probs)


def test_members_and_colours_are_averaged_before_the_seams() -> None:
    ensemble = stack_members([make_checkpoint(seed, in_channels=3) for seed in (1, 2)])
    whole, in_tiles = predictors(ensemble, tta=("vflip",))
    image = picture(150, 250, 3)
    (expected,), (found,) = whole.predict([image]), in_tiles.predict([image])
    assert np.abs(found.mask_probs.astype(int) - expected.mask_probs).max() <= 2
    assert np.abs(found.label_probs.astype(int) - expected.label_probs).max() <= 2


def test_labels_are_told_from_all_tiles_together() -> None:
    """A head that answers by an average alone: of an image half black and half white, no tile has that average."""
    checkpoint = make_checkpoint(0)
    weight = checkpoint.tensors["classification_head.linear.weight"]
    weight[..., weight.shape[-1] // 2 :] = 0
    checkpoint.tensors["classification_head.reliance"].zero_()
    image = np.zeros((96, 768), np.uint8)
    image[:, 300:] = 255
    whole, in_tiles = predictors(checkpoint)
    (expected,), (found,) = whole.predict([image]), in_tiles.predict([image])
    assert np.abs(found.label_probs.astype(int) - expected.label_probs).max() <= 2
    halves = [one.label_probs.astype(int) for one in whole.predict([image[:, :300], image[:, 300:]])]
    assert all(np.abs(half - expected.label_probs).max() > 4 for half in halves)


def test_images_within_the_budget_stay_whole_and_others_are_told_of() -> None:
    tiling = TilingConfig(budget=100 * 100, tile=64, overlap=32)
    whole, in_tiles = predictors(make_checkpoint(0), tiling)
    told: list[tuple[int, int]] = []
    in_tiles.on_tile = lambda done, total: told.append((done, total))
    small, large = picture(100, 100), picture(104, 100)
    (expected,), (found,) = whole.predict([small]), in_tiles.predict([small])
    assert np.array_equal(found.mask_probs, expected.mask_probs)
    assert told == []
    results = in_tiles.predict([small, large, small])
    assert told == [(k, 9) for k in range(1, 10)]
    assert [result.mask_probs.shape for result in results] == [(2, 100, 100), (2, 104, 100), (2, 100, 100)]
    assert np.array_equal(results[2].mask_probs, expected.mask_probs)


def test_a_batch_of_large_images_is_that_of_each() -> None:
    """As evaluation may have it, with many pixels a pass."""
    _, predictor = predictors(make_checkpoint(0))
    images = np.stack([picture(120, 200), 255 - picture(120, 200)])
    batch = predictor.probabilities(torch.from_numpy(images[:, None]))
    for image, mask_probs, label_probs in zip(images, *batch[:2], strict=True):
        (alone,) = predictor.predict([image])
        assert np.array_equal(alone.mask_probs, mask_probs)
        assert np.array_equal(alone.label_probs, label_probs)


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from steel.config import TilingConfig
from tests.unit.inference.test_tiled_prediction import make_checkpoint, predictors
tiling = TilingConfig(budget=1 << 16, tile=256, overlap=64)
predictor = predictors(make_checkpoint(0), tiling)[sys.argv[1] == "tiles"]
# Not getrusage: a new process starts with the peak of the one that it was forked from.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
predictor.predict([np.zeros((256, 512), np.uint8)])
before = peak()
predictor.predict([np.zeros((768, 1024), np.uint8)])
print(peak() - before)
"""


def test_tiles_take_a_fraction_of_the_memory() -> None:
    """At most 8 bytes a pixel for two classes (image, probabilities, masks), beside one tile's pass and blending."""
    grown = {
        kind: int(
            subprocess.run(
                [sys.executable, "-c", PEAK, kind], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
        )
        for kind in ("tiles", "whole")
    }
    assert grown["tiles"] < 8 * 768 * 1024 + (30 << 20), grown
    assert grown["whole"] > 2 * grown["tiles"], grown
