"""Sets whose images, or one channel of them, hardly vary: normalised with one gray level, never divided by zero."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data_prep.__main__ import main
from steel.model.network import normalise
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader


def shard(folder: Path, images: list[np.ndarray]) -> Path:
    """Shards of RGB or gray images without any defect but in the first."""
    (folder / "images").mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image if image.ndim == 2 else image[..., ::-1])
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n0.png,1,1 3\n")
    line = ["--images", folder / "images", "--labels", folder / "train.csv", "--out", folder / "out"]
    assert main([str(part) for part in (*line, "--folds", 1, "--workers", 1, "--executor", "thread")]) == 0
    return folder / "out"


def normalised(root: Path) -> np.ndarray:
    """All images of a set as a network is shown them, (n, c, H, W)."""
    reader = ShardReader(root)
    images = np.stack([np.atleast_3d(reader.read(row).image).transpose(2, 0, 1) for row in range(len(reader))])
    return normalise(torch.from_numpy(images), reader.manifest.mean, reader.manifest.std).numpy()


@pytest.mark.parametrize("level", [0, 137, 255])
def test_images_of_one_gray_level(tmp_path: Path, capsys: pytest.CaptureFixture[str], level: int) -> None:
    root = shard(tmp_path, [np.full((8, 12), level, np.uint8)] * 3)
    assert "warning: the images hardly vary; they are normalised with a deviation of one gray level" in (
        capsys.readouterr().out
    )
    manifest = Manifest.load(str(root))
    assert (manifest.mean, manifest.std) == (pytest.approx((level / 255,)), (1 / 255,))
    assert normalised(root) == pytest.approx(np.zeros((3, 1, 8, 12)), abs=1e-4)


def test_a_channel_that_is_always_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (8, 12, 3), np.uint8) for n in range(3)]
    for image in images:
        image[..., 2] = 0
    root = shard(tmp_path, images)
    assert "warning: the channels blue hardly vary" in capsys.readouterr().out
    found, expected = normalised(root), np.stack(images)[..., :2] / 255
    expected = (expected - expected.mean((0, 1, 2))) / expected.std((0, 1, 2))
    order = [ShardReader(root).index.image_id(row) for row in range(3)]
    assert found[np.argsort(order), :2] == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-4)
    assert not found[:, 2].any()


def test_one_pixel_of_noise_is_not_blown_up(tmp_path: Path) -> None:
    images = [np.full((20, 20), 90, np.uint8) for _ in range(3)]
    images[1][3, 4] = 91
    found = normalised(shard(tmp_path, images))  # by its own deviation, of 0.03 gray levels, it would be 35
    assert found.max() == pytest.approx(1, abs=0.01)


def test_images_that_vary_keep_their_deviation_and_are_not_spoken_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [np.random.default_rng(n).integers(100, 110, (8, 12), np.uint8) for n in range(3)]
    manifest = Manifest.load(str(shard(tmp_path, images)))
    assert manifest.std == pytest.approx(((np.stack(images) / 255).std(),), rel=1e-9)
    assert "hardly" not in capsys.readouterr().out
