"""A small folder of images with run-length masks, for tests of sharding."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from steel.labels.rle import encode_rle

HEIGHT, WIDTH, NUM_CLASSES = 32, 48, 4
NUM_IMAGES = 17
"""Of the folder that the tests of sharding share: three shards of five and one of two."""


def image_name(number: int) -> str:
    return f"coil{number % 3}/strip.{number:03d}.jpg"


def texture(number: int) -> np.ndarray:
    """A gray image (32, 48) unlike those of other numbers."""
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def masks_of(number: int) -> np.ndarray:
    """Masks (4, 32, 48) of bool: every third image is clean, classes overlap in some."""
    masks = np.zeros((NUM_CLASSES, HEIGHT, WIDTH), bool)
    if number % 3:
        masks[number % 4, 2 : 8 + number % 9, 5:20] = True
        masks[(number // 2) % 4, 5:9, 10 : 30 + number % 7] = True
    return masks


def write_images(folder: Path, num_images: int) -> None:
    """`images/` and `train.csv` in the defective-only form."""
    rows = ["ImageId,ClassId,EncodedPixels"]
    for number in range(num_images):
        path = folder / "images" / image_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), texture(number))
        for k, mask in enumerate(masks_of(number)):
            if mask.any():
                rows.append(f"{image_name(number)},{k + 1},{encode_rle(mask)}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")


def arguments(folder: Path, out: Path | str, **options: object) -> list[str]:
    """The command line that shards `folder` into `out`: three folds, five images a shard, one worker."""
    given = {"folds": 3, "shard_size": 5, "workers": 1, **options}
    line = ["--images", str(folder / "images"), "--labels", str(folder / "train.csv"), "--out", str(out)]
    for name, value in given.items():
        line += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return line


def tree_digest(folder: Path) -> dict[str, str]:
    """Every file in a folder, hidden ones too, and its sha256."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The line of an error, which must be the only one beside the progress bar."""
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error:")]
    assert len(lines) == 1, lines
    return lines[0]
