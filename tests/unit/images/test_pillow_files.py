"""Files that Pillow has written, of every format and kind: the pixels are those that went in, alpha left out."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile

from steel.images.decode import count_pixels, decode_image, decode_labels

RANDOM = np.random.default_rng(3)
GRAY = RANDOM.integers(0, 256, (37, 53), np.uint8)
RGB = RANDOM.integers(0, 256, (37, 53, 3), np.uint8)
ALPHA = RANDOM.integers(0, 256, (37, 53), np.uint8)
TABLE = RANDOM.integers(0, 256, (256, 3), np.uint8)
ALPHA[:5] = 0

FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG"},
    "BMP": {"format": "BMP"},
    "WebP": {"format": "WEBP", "lossless": True, "exact": True},
    "TIFF": {"format": "TIFF"},
    "TIFF, LZW": {"format": "TIFF", "compression": "tiff_lzw"},
    "TIFF, LZW with predictor": {"format": "TIFF", "compression": "tiff_lzw", "tiffinfo": {317: 2}},
    "TIFF, deflate": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    "TIFF, pack bits": {"format": "TIFF", "compression": "packbits"},
    "BigTIFF": {"format": "TIFF", "big_tiff": True},
}


def palette() -> Image.Image:
    image = Image.fromarray(GRAY, "P")
    image.putpalette(TABLE.ravel().tolist())
    return image


PREDICTED_BITS = ("TIFF, LZW with predictor", "black and white")
"""Which no TIFF may be: differences are between whole bytes."""
KINDS: dict[str, tuple[Image.Image, np.ndarray]] = {
    "gray": (Image.fromarray(GRAY), np.dstack([GRAY] * 3)),
    "colour": (Image.fromarray(RGB), RGB),
    "palette": (palette(), TABLE[GRAY]),
    "colour and alpha": (Image.fromarray(np.dstack([RGB, ALPHA])), RGB),
    "black and white": (Image.fromarray(GRAY > 99), np.dstack([np.where(GRAY > 99, 255, 0)] * 3)),
}


PAIRS = [(name, kind) for name in FORMATS for kind in KINDS if (name, kind) != PREDICTED_BITS]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_pixels_are_those_that_went_in(name: str, kind: str) -> None:
    image, expected = KINDS[kind]
    if name == "WebP" and kind == "palette":
        image = image.convert("RGB")  # it has none
    buffer = io.BytesIO()
    image.save(buffer, **FORMATS[name])
    if "predictor" in name:
        assert Image.open(io.BytesIO(buffer.getvalue())).tag_v2[317] == 2  # type: ignore[attr-defined]
    assert np.array_equal(decode_image(buffer.getvalue(), 3), expected)


@pytest.mark.parametrize("read", [decode_labels, count_pixels])
@pytest.mark.parametrize("refused", [MemoryError(), ImageFile._get_oserror(-9, encoder=False)])  # type: ignore[attr-defined]
def test_too_little_memory_is_no_damage(
    read: Callable[[bytes], object], refused: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    KINDS["palette"][0].save(buffer, "BMP")

    def refuse(*_: object) -> None:
        raise refused

    monkeypatch.setattr(BmpImageFile, "load" if read is decode_labels else "_open", refuse)
    with pytest.raises(MemoryError, match=r"^to decode a BMP$"):
        read(buffer.getvalue())
