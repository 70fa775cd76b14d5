"""One decoder: the pixels of every format, and how many of them there may be."""

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from steel.errors import InputError
from steel.images import decode
from steel.images.decode import count_pixels, decode_image, decode_pixels, decode_values
from steel.images.pixel_format import Depth, to_channels
from tests.image_files import DEEP, GRAY, JPEGS, LABELS, RGB, by_pillow, palette, png, tiff

REAL_DATA = os.environ.get("STEEL_REAL_DATA")


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_gray_and_colour_decoding_agree() -> None:
    coded = {ext: cv2.imencode(f".{ext}", cv2.merge([GRAY] * 3))[1].tobytes() for ext in ("png", "jpg", "bmp", "tif")}
    coded["webp"] = by_pillow(cv2.merge([GRAY] * 3), "WEBP", lossless=True)
    for extension, data in coded.items():
        one, three = decode_image(data, 1), decode_image(data, 3)
        assert one.shape == GRAY.shape
        assert np.array_equal(np.stack([one] * 3, -1), three), extension
        assert extension == "jpg" or np.array_equal(one, GRAY)


def test_colours_are_rgb() -> None:
    for data in (by_pillow(RGB, "PNG"), by_pillow(RGB, "BMP"), by_pillow(RGB, "TIFF")):
        assert np.array_equal(decode_image(data, 3), RGB)
        assert np.array_equal(decode_pixels(data), RGB)
        assert np.array_equal(decode_image(data, 1), to_channels(RGB, 1))
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert decode_image(by_pillow(red, "JPEG"), 3)[0, 0] == pytest.approx([200, 0, 0], abs=2)


@pytest.mark.parametrize("name", JPEGS)
def test_jpegs_are_those_of_opencv_bit_by_bit(name: str) -> None:
    data = np.frombuffer(JPEGS[name](), np.uint8)
    assert np.array_equal(decode_image(data.tobytes(), 1), cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    assert np.array_equal(decode_image(data.tobytes(), 3), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
def test_real_jpegs_are_those_of_opencv_bit_by_bit() -> None:
    files = sorted((Path(str(REAL_DATA)) / "severstal_sample" / "train_images").iterdir())
    assert files
    for file in files:
        data = np.fromfile(file, np.uint8)
        assert np.array_equal(decode_image(data.tobytes(), 1), cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
        assert np.array_equal(decode_image(data.tobytes(), 3), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_ignored(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = by_pillow(np.zeros((4, 8), np.uint8), kind, exif=exif)
    assert decode_image(data, 1).shape == (4, 8)
    assert decode_image(data, 3).shape == (4, 8, 3)


def test_a_tiff_that_is_turned_by_a_tag_is_refused() -> None:
    assert np.array_equal(decode_pixels(tiff(GRAY)), GRAY)
    for decoder in (decode_pixels, decode_values):
        with pytest.raises(ValueError, match="turn its pixels"):
            decoder(tiff(GRAY, orientation=3))


def test_more_than_8_bits_are_refused_or_converted() -> None:
    colours = np.dstack([DEEP, DEEP + 1, DEEP + 256])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    for data in (png((3, 2, 16, 2), rows), tiff(colours)):
        assert np.array_equal(decode_pixels(data), colours)
        assert np.array_equal(decode_image(data, 3, Depth("high-byte")), colours // 256)
        with pytest.raises(ValueError, match="16 bits a pixel; --depth of data_prep"):
            decode_image(data, 3)
    assert decode_image(tiff(DEEP), 1, Depth("high-byte")).tolist() == [[0, 1, 255], [0, 1, 1]]
    for rule in ("8-bit", "high-byte"):
        with pytest.raises(ValueError, match="float32 pixels; convert them to 8 or 16 bits"):
            decode_image(tiff(DEEP.astype(np.float32), sample_format=3), 1, Depth(rule))
    with pytest.raises(InputError, match="depth 'middle' is none that this program knows"):
        Depth("middle")  # type: ignore[arg-type]


def test_a_window_of_16_bits_by_hand() -> None:
    """255 (v - 1000) / 510, halves rounded up, and nothing beyond the ends."""
    values = np.array([[0, 1000, 1001, 1002, 1003], [1508, 1509, 1510, 1511, 65535]], np.uint16)
    expected = [[0, 0, 1, 1, 2], [254, 255, 255, 255, 255]]
    for data in (tiff(values), tiff(values, compress=True)):
        assert decode_image(data, 1, Depth("window", 1000, 1510)).tolist() == expected
    assert decode_image(tiff(GRAY), 1, Depth("window", 1000, 1510)).tolist() == GRAY.tolist()
    for low, high in ((5, 5), (-1, 9), (9, 65536)):
        with pytest.raises(InputError, match="is no window of values"):
            Depth("window", low, high)
    with pytest.raises(InputError, match="high-byte has no window"):
        Depth("high-byte", 1, 5)


def test_a_12_bit_camera_keeps_its_contrast() -> None:
    """Of its 4,096 levels, in 16-bit files, the upper byte leaves 16; the window has all of black to white."""
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    assert len(np.unique(decode_image(tiff(levels), 1, Depth("high-byte")))) == 16
    shown = decode_image(tiff(levels), 1, Depth("window", 0, 4095))
    assert np.array_equal(shown, np.floor(levels.astype(float) * 255 / 4095 + 0.5))
    assert len(np.unique(shown)) == 256


def test_packed_values_of_12_bits_keep_their_numbers() -> None:
    levels = np.arange(2400, dtype=np.uint16).reshape(40, 60)
    bits = ((levels[..., None] >> np.arange(11, -1, -1)) & 1).astype(np.uint8)
    assert np.array_equal(decode_pixels(tiff(levels, packed=(12, np.packbits(bits).tobytes()))), levels)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha", "unspecified"])
def test_alpha_of_a_tiff_changes_no_colour(depth: type[np.integer], alpha: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (24, 40, 4), depth)
    for count in (2, 4):
        for planes in ("contig", "separate"):
            stored = values[..., :count] if planes == "contig" else values[..., :count].transpose(2, 0, 1)
            buffer = io.BytesIO()
            tifffile.imwrite(
                buffer,
                stored,
                photometric="rgb" if count == 4 else "minisblack",
                extrasamples=[alpha],
                planarconfig=planes,
            )
            if planes == "separate" or (count == 2 and depth == np.uint16):
                with pytest.raises(ValueError, match=r"with alpha|without alpha"):
                    decode_pixels(buffer.getvalue())
            else:
                expected = values[..., :3] if count == 4 else values[..., 0]
                assert np.array_equal(decode_pixels(buffer.getvalue()), expected)


def test_colour_planes_of_a_tiff() -> None:
    """OpenCV reads those of 16 bits as something else, without a word."""
    tifffile = pytest.importorskip("tifffile")
    for depth in (np.uint8, np.uint16):
        values = np.random.default_rng(1).integers(0, np.iinfo(depth).max, (3, 24, 40), depth)
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="rgb", planarconfig="separate")
        if depth == np.uint8:
            assert np.array_equal(decode_pixels(buffer.getvalue()), values.transpose(1, 2, 0))
        else:
            with pytest.raises(ValueError, match="a TIFF of planes"):
                decode_pixels(buffer.getvalue())


def test_further_pages_of_a_tiff_are_not_lost_silently() -> None:
    buffer = io.BytesIO()
    pages = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY), Image.fromarray(GRAY)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    for decoder in (decode_pixels, decode_values):
        with pytest.raises(ValueError, match=r"a TIFF of 3 pages; save each page .* --tiff-pages split"):
            decoder(buffer.getvalue())
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:  # a smaller copy of the same picture is no page of its own
        writer.write(GRAY, photometric="minisblack")
        writer.write(GRAY[::2, ::2], photometric="minisblack", subfiletype=1)
    assert np.array_equal(decode_pixels(buffer.getvalue()), GRAY)
    whole = buffer.getvalue()
    circle = bytearray(whole)
    first = struct.unpack_from("<I", circle, 4)[0]
    struct.pack_into("<I", circle, first + 2 + 12 * struct.unpack_from("<H", circle, first)[0], first)
    with pytest.raises(ValueError, match="its pages have no end"):
        decode_pixels(bytes(circle))


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_images_beyond_the_limit_are_refused_before_they_are_decoded() -> None:
    for width, height in ((40_000, 40_000), (2_000_000, 4)):
        large = png((width, height, 8, 0), b"")
        for decoder in (decode_pixels, decode_values):
            with pytest.raises(ValueError, match=f"{height}x{width} pixels: at most 1,073,741,824 are read"):
                decoder(large)
    strip = bytearray(tiff(GRAY, compress=True))
    for tag, value in ((256, 40_000), (257, 50_000)):
        entry = strip.index(struct.pack("<HHI", tag, 4, 1))
        struct.pack_into("<I", strip, entry + 8, value)
    with pytest.raises(ValueError, match="50000x40000 pixels: at most"):
        decode_pixels(bytes(strip))
    data = bytearray(by_pillow(GRAY, "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 50_000, 60_000)
    with pytest.raises(ValueError, match="50000x60000 pixels: at most"):
        decode_image(bytes(data), 1)


def test_masks_beyond_the_limit_of_pillow_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LABELS.size // 2 - 1)  # twice that is an error, as are 13,000x14,000
    for kind in ("PNG", "TIFF", "BMP"):
        data = by_pillow(palette(LABELS), kind)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(data))
        assert decode_values(data).tolist() == LABELS.tolist()
    assert np.array_equal(decode_pixels(by_pillow(GRAY, "TIFF", compression="tiff_lzw")), GRAY)
    assert vars(Image)["MAX_IMAGE_PIXELS"] == LABELS.size // 2 - 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_pixels_are_counted_without_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [by_pillow(pixels, kind) for pixels in (GRAY, RGB)]
    for name in ("read_by_pillow", "_decode_by_opencv", "_decode_jpeg"):
        monkeypatch.setattr(decode, name, lambda *_: pytest.fail("decoded"))
    for data in files:
        assert count_pixels(data) == 123 * 201
        with pytest.raises(ValueError, match=r"damaged|not a readable"):
            count_pixels(data[:12])


def test_pixels_beyond_all_bounds_are_refused_by_the_header() -> None:
    with pytest.raises(ValueError, match="at most"):
        count_pixels(png((40_000, 40_000, 8, 0), b""))
