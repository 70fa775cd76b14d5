"""Image files that are not whole: cut, overwritten, or no image at all."""

import contextlib
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from steel.images.decode import decode_image, decode_labels, decode_pixels
from tests.image_files import GRAY, JPEGS, RGB, by_pillow, tiff


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"not an image", "not a readable image"),
        (b"GIF89a and so on", "not a readable image"),
        (b"\xff\xd8\xff", "damaged or unusual JPEG"),
        (b"II*\0", "damaged TIFF: cut short"),
        (b"BM", "damaged or unusual BMP"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, message: str) -> None:
    for channels in (1, 3):
        with pytest.raises(ValueError, match=message):
            decode_image(data, channels)


def damaged_jpegs(data: bytes, scan: int) -> dict[str, bytes]:
    """A JPEG, cut or overwritten after its entropy-coded data begin at `scan`."""
    middle, end = (scan + len(data)) // 2, len(data)
    noise = np.random.default_rng(3).integers(0, 256, end, np.uint8).tobytes()
    return {
        "cut": data[:middle],
        "cut, with an end": data[:middle] + b"\xff\xd9",
        "second half of zeros": data[:middle] + bytes(end - middle),
        "second half of zeros, with an end": data[:middle] + bytes(end - middle - 2) + b"\xff\xd9",
        "tail of zeros": data[:-200] + bytes(200),
        "zeros in the middle": data[:middle] + bytes(600) + data[middle + 600 :],
        "noise in the middle": data[:middle] + noise[:600] + data[middle + 600 :],
        "a part left out": data[:middle] + data[middle + 600 :],
        "a part repeated": data[:middle] + data[middle - 600 :],
    }


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_damaged_jpeg_is_refused_without_a_word_of_the_library(
    name: str, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = JPEGS[name]()
    for damage, damaged in damaged_jpegs(data, data.index(b"\xff\xda")).items():
        with pytest.raises(ValueError, match="JPEG"):
            pytest.fail(f"{damage}: {decode_image(damaged, channels).shape}")
    assert decode_image(data + b"\0\0 appended by some camera", channels).shape[:2] == GRAY.shape
    assert capfd.readouterr() == ("", "")


def test_a_hole_of_zeros_anywhere_in_a_jpeg_is_refused() -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (256, 400), np.uint8), (5, 5), 2)
    fitting = 0  # holes that libjpeg has nothing to say of
    for data in (by_pillow(pixels, "JPEG"), by_pillow(cv2.merge([pixels] * 3), "JPEG", optimize=True)):
        start = data.index(b"\xff\xda") + 20
        for size in (64, 300):
            for place in range(start, len(data) - size - 2, len(data) // 25):
                damaged = data[:place] + bytes(size) + data[place + size :]
                with pytest.raises(ValueError, match="damaged JPEG"):
                    pytest.fail(f"{size} at {place}: {decode_image(damaged, 1).shape}")
                with contextlib.suppress(ValueError):
                    fitting += simplejpeg.decode_jpeg(damaged, "GRAY").size > 0
    assert fitting > 0


def test_flat_pixels_and_zeros_beside_the_code_are_no_hole() -> None:
    black = np.zeros((2000, 2000), np.uint8)
    black[:, :100] = np.random.default_rng(0).integers(0, 256, (2000, 100), np.uint8)
    for pixels, options in (
        (black, {}),
        (black, {"optimize": True}),
        (black * 0, {"optimize": True, "progressive": True}),
    ):
        data = by_pillow(pixels, "JPEG", **options)
        assert (bytes(64) in data) == bool(options)
        assert decode_image(data, 1).shape == (2000, 2000)
    around = by_pillow(GRAY, "JPEG", comment=bytes(500)) + bytes(500) + by_pillow(GRAY, "JPEG", comment=bytes(500))
    assert np.array_equal(decode_image(around, 1), decode_image(by_pillow(GRAY, "JPEG"), 1))


FRAMED: dict[str, bytes] = {
    "PNG": by_pillow(RGB[:20, :30], "PNG"),
    "PNG of a palette": by_pillow(Image.fromarray(GRAY[:20, :30]).convert("P"), "PNG"),
    "TIFF with deflate": tiff(GRAY[:20, :30], compress=True),
}


@pytest.mark.parametrize("name", FRAMED)
def test_every_changed_byte_behind_a_checksum_is_refused_or_harmless(name: str) -> None:
    data, pixels = FRAMED[name], decode_pixels(FRAMED[name])
    first = 0 if name.startswith("PNG") else 8  # a TIFF's directory has no checksum; its strip follows the header
    last = len(data) if name.startswith("PNG") else 8 + len(zlib.compress(GRAY[:20, :30].tobytes()))
    for position in range(first, last):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            assert np.array_equal(decode_pixels(bytes(damaged)), pixels), position
        except ValueError:
            continue


CUT = {
    "PNG": FRAMED["PNG"],
    "TIFF": by_pillow(GRAY, "TIFF"),
    "TIFF, deflate": by_pillow(GRAY, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, LZW": by_pillow(GRAY, "TIFF", compression="tiff_lzw"),
    "TIFF, pack bits": by_pillow(GRAY, "TIFF", compression="packbits"),
    "BigTIFF": by_pillow(GRAY, "TIFF", big_tiff=True),
    "BMP": by_pillow(GRAY, "BMP"),
    "WebP": by_pillow(RGB, "WEBP", lossless=True),
    "WebP, lossy": by_pillow(RGB, "WEBP", quality=80),
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_anywhere_is_refused_without_a_word_of_the_library(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = CUT[name]
    pixels = decode_pixels(data)
    for length in [*range(1, len(data) - 8, len(data) // 40), len(data) - 8]:
        with pytest.raises(ValueError, match=r"damaged|not a readable image"):
            pytest.fail(f"{length}: {decode_pixels(data[:length]).shape}")
    for length in range(len(data) - 7, len(data)):  # where padding may stand
        with contextlib.suppress(ValueError):
            assert np.array_equal(decode_pixels(data[:length]), pixels)
    assert np.array_equal(decode_pixels(data + b"appended"), pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}], ids=["lossy", "lossless"])
def test_an_animation_is_refused_and_a_single_frame_is_an_image(kind: str, options: dict[str, bool]) -> None:
    """Decoders give the first frame, and nobody would hear of the others."""
    first, *others = [Image.fromarray(np.roll(RGB, 30 * number, axis=1)) for number in range(3)]
    animated = by_pillow(first, kind, save_all=True, append_images=others, **options)
    for decode in (lambda data: decode_image(data, 1), decode_pixels, *([decode_labels] if kind == "PNG" else [])):
        with pytest.raises(ValueError, match=r"animated (PNG|WebP) of 3 frames; save each frame as a file"):
            decode(animated)
    single = by_pillow(first, kind, save_all=True, append_images=[], **options)
    extended = by_pillow(first, kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", icc_profile=b"any", **options)
    for data in (single, extended):
        assert np.array_equal(decode_pixels(data), decode_pixels(by_pillow(first, kind, **options)))
    for length in range(0, len(animated), len(animated) // 40):
        with pytest.raises(ValueError, match=r"image|empty|damaged|animated"):
            decode_pixels(animated[:length])


def test_a_compressed_tiff_with_changed_strips_is_refused() -> None:
    for name in ("TIFF, deflate", "TIFF, LZW"):
        data = CUT[name]
        damaged = data[: len(data) // 2] + bytes(512) + data[len(data) // 2 + 512 :]
        with pytest.raises(ValueError, match="damaged"):
            decode_pixels(damaged)
