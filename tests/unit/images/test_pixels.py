"""One image on its way into a shard: read, reduced and measured."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.pixels import (
    gray_of,
    ignored_area,
    load_image,
    mean_and_std,
    pixel_sums,
)
from steel.images.decode import decode_image
from steel.images.pixel_format import Depth

GRAY = np.random.default_rng(0).integers(0, 256, (24, 40), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(pixels: np.ndarray, extension: str) -> bytes:
    return cv2.imencode(f".{extension}", pixels)[1].tobytes()


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "jpg"])
def test_bytes_are_kept_and_gray_is_recognised(extension: str) -> None:
    for pixels, is_gray in ((GRAY, True), (cv2.merge([GRAY] * 3), True), (COLOUR, False)):
        data = encoded(pixels, extension)
        image = load_image(data, extension)
        assert image.data is data
        assert image.extension == extension
        assert image.size == image.original_size == (24, 40)
        assert gray_of(image.pixels).shape == (24, 40)
        if is_gray:
            assert np.array_equal(image.pixels, decode_image(data, 1))
        else:
            assert np.array_equal(image.pixels, decode_image(data, 3))


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("place", [(0, 0), (23, 39), (11, 7)])
def test_one_coloured_pixel_makes_an_image_coloured(channel: int, place: tuple[int, int]) -> None:
    pixels = cv2.merge([GRAY] * 3)
    pixels[(*place, channel)] ^= 1
    assert load_image(encoded(pixels, "png"), "png").pixels.ndim == 3


def test_palettes_transparency_and_rotation_are_read_as_pixels() -> None:
    for image in (Image.fromarray(COLOUR).convert("P"), Image.fromarray(np.dstack([COLOUR, GRAY]))):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        loaded = load_image(buffer.getvalue(), "png")
        assert np.array_equal(loaded.pixels, np.asarray(image.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(GRAY).save(buffer, "JPEG", exif=exif)
    assert load_image(buffer.getvalue(), "jpg").size == (24, 40)


def test_every_truncation_of_a_jpeg_is_noticed() -> None:
    data = encoded(GRAY, "jpg")
    for length in range(0, len(data) - 2, 7):
        with pytest.raises(ValueError, match=r"an empty file|JPEG|not a readable image"):
            load_image(data[:length], "jpg")
    assert load_image(data + b"\0\0 appended by some camera", "jpg").size == (24, 40)


def test_depths_other_than_8_bits() -> None:
    deep = encoded(GRAY.astype(np.uint16) * 257, "png")
    with pytest.raises(ValueError, match="--depth of data_prep"):
        load_image(deep, "png")
    kept = load_image(deep, "png", depth=Depth("high-byte"))
    assert (kept.data, kept.extension) == (deep, "png")
    assert np.array_equal(kept.pixels, GRAY)
    reduced = load_image(deep, "png", resize=(12, 20), depth=Depth("high-byte"))
    assert np.array_equal(
        decode_image(reduced.data, 1), load_image(encoded(GRAY, "png"), "png", resize=(12, 20)).pixels
    )
    with pytest.raises(ValueError, match="float32 pixels"):
        load_image(encoded(GRAY.astype(np.float32), "tiff"), "tiff")


def test_a_reduced_image_is_stored_without_loss_and_measured_as_it_is_stored() -> None:
    pairs = GRAY.reshape(12, 2, 20, 2).astype(int)
    averages = (pairs.sum((1, 3)) + 2) // 4  # of 2x2 pixels, halves rounded up
    for extension in ("png", "bmp", "tif"):
        image = load_image(encoded(GRAY, extension), extension, resize=(12, 20))
        assert (image.extension, image.size, image.original_size) == ("png", (12, 20), (24, 40))
        assert image.pixels.tolist() == averages.tolist()
        assert decode_image(image.data, 1).tolist() == averages.tolist()
    photo = load_image(encoded(COLOUR, "jpg"), "jpg", resize=(17, 31))
    assert photo.extension == "png"
    assert np.array_equal(decode_image(photo.data, 3), photo.pixels)
    same = encoded(GRAY, "bmp")
    assert load_image(same, "bmp", resize=(24, 40)).data is same


def test_ignored_pixels_are_counted() -> None:
    assert ignored_area(np.array([[0x80, 0x81, 1]], np.uint8), 7) == 2
    assert ignored_area(np.array([[0x8000, 1]], np.uint16), 15) == 1
    assert ignored_area(np.array([[0x80]], np.uint8), None) == 0


def test_sums_are_exact() -> None:
    assert pixel_sums(np.array([[1, 2], [3, 4]], np.uint8)) == (True, (10, 10, 10), (30, 30, 30))
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert pixel_sums(rgb) == (False, (5, 7, 9), (17, 29, 45))
    white = np.full((2000, 3000), 255, np.uint8)
    assert pixel_sums(white).squares[0] == 255**2 * 6_000_000
    noise = np.random.default_rng(2).integers(0, 256, (1999, 2999), np.uint8)
    assert pixel_sums(noise).squares[0] == (noise.astype(np.int64) ** 2).sum()


def test_mean_and_deviation_by_hand() -> None:
    # two pixels, 0 and 255: mean 1/2, deviation 1/2
    assert mean_and_std(2, [255], [255**2]) == ((0.5,), (0.5,))
    assert mean_and_std(4, [4 * 51], [4 * 51**2]) == ((0.2,), (0.0,))
