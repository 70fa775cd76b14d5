"""Small images, masks and tables of labels, written to files, for tests of label formats."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from steel.validation_errors import ValidationErrors

ROWS = "ImageId,ClassId,EncodedPixels\n"


def write_images(folder: Path, *names: str, shape: tuple[int, ...] = (4, 6)) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full(shape, 90, np.uint8))
    return folder


def write_mask(path: Path, rows: list[list[int]], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(rows, np.uint16 if np.max(rows) > 255 else np.uint8))
    if palette:
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def problems_of(error: pytest.ExceptionInfo[ValidationErrors]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for kind, name in error.value.issues:
        kinds.setdefault(kind, []).append(name)
    return kinds
