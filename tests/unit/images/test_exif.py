"""The orientation that EXIF asks viewers for: read to be told, never followed."""

import numpy as np
import pytest
from PIL import Image

from steel.images.exif import exif_orientation
from tests.image_files import by_pillow, tiff

PIXELS = np.zeros((4, 8), np.uint8)


def with_orientation(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "a camera"  # a tag before it, of text
    exif[0x0112] = orientation
    return by_pillow(PIXELS, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_of_each_format_is_read(kind: str, orientation: int) -> None:
    assert exif_orientation(with_orientation(orientation, kind)) == orientation


def test_webp_with_the_jpegs_mark_before_its_exif_is_read() -> None:
    data = with_orientation(6, "WebP")
    at = data.index(b"EXIF")
    length = int.from_bytes(data[at + 4 : at + 8], "little")
    marked = data[: at + 4] + (length + 6).to_bytes(4, "little") + b"Exif\0\0" + data[at + 8 :]
    assert exif_orientation(marked) == exif_orientation(data) == 6


def test_files_without_exif_or_with_a_damaged_one_are_as_stored() -> None:
    for kind in ("JPEG", "PNG", "WebP", "BMP"):
        assert exif_orientation(by_pillow(PIXELS, kind)) == 1
        assert exif_orientation(by_pillow(PIXELS, kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")) == 1
    assert exif_orientation(tiff(PIXELS)) == exif_orientation(b"") == 1
    assert exif_orientation(with_orientation(9, "JPEG")) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_a_file_that_is_cut_or_changed_anywhere_raises_nothing(kind: str) -> None:
    data = with_orientation(6, kind)
    for length in range(len(data)):
        assert 1 <= exif_orientation(data[:length]) <= 8
        assert 1 <= exif_orientation(data[:length] + b"\xff" + data[length + 1 :]) <= 8
