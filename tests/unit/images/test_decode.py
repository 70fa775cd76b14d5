"""One decoder: the pixels of every format, and files that are not whole."""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from steel.errors import InputError
from steel.images import decode
from steel.images.decode import count_pixels, decode_image, decode_labels, decode_pixels, decode_values, to_labels
from steel.images.pixel_format import Depth, to_channels

REAL_DATA = os.environ.get("STEEL_REAL_DATA")
GRAY = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (123, 201), np.uint8), (5, 5), 1.5)
RGB = np.dstack([GRAY, np.roll(GRAY, 40), np.roll(GRAY, 90)])
DEEP = np.array([[0, 300, 65535], [255, 256, 511]], np.uint16)


def by_pillow(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(header: tuple[int, ...], rows: bytes) -> bytes:
    """A PNG from width, height, depth, colour type and its raw rows."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def tiff(
    pixels: np.ndarray,
    *,
    sample_format: int = 1,
    orientation: int = 1,
    compress: bool = False,
    packed: tuple[int, bytes] | None = None,
) -> bytes:
    """A little-endian TIFF of one strip, from (H, W) of any type or (H, W, 3); or values packed in so many bits."""
    height, width, channels = (*pixels.shape, 1)[:3]
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() if packed is None else packed[1]
    data = zlib.compress(data) if compress else data
    length, data = len(data), data + bytes(len(data) % 2) + struct.pack("<3H", *[8 * pixels.itemsize] * 3)
    one = 8 * pixels.itemsize if packed is None else packed[0]
    bits = one if channels == 1 else len(data) + 2  # or where three of them are
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 4, 1, 8 if compress else 1)]
    tags += [(262, 4, 1, 1 if channels == 1 else 2), (273, 4, 1, 8), (274, 4, 1, orientation), (277, 4, 1, channels)]
    tags += [(278, 4, 1, height), (279, 4, 1, length)] + ([(339, 4, 1, sample_format)] if channels == 1 else [])
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


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


JPEGS: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: by_pillow(RGB, "JPEG", subsampling="4:2:0"),
    "4:2:2": lambda: by_pillow(RGB, "JPEG", subsampling="4:2:2"),
    "4:4:4": lambda: by_pillow(RGB, "JPEG", subsampling="4:4:4", quality=100),
    "4:1:1": lambda: cv2.imencode(
        ".jpg", RGB, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411]
    )[1].tobytes(),
    "gray": lambda: by_pillow(GRAY, "JPEG"),
    "progressive": lambda: by_pillow(RGB, "JPEG", progressive=True),
    "restart markers": lambda: by_pillow(RGB, "JPEG", restart_marker_blocks=5),
    "optimised": lambda: by_pillow(GRAY, "JPEG", optimize=True, quality=30),
    "stored as RGB": lambda: by_pillow(RGB, "JPEG", keep_rgb=True),
    "CMYK": lambda: by_pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
}


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


# --- files that are not whole ----------------------------------------------------------------------------------------


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


def test_a_compressed_tiff_with_changed_strips_is_refused() -> None:
    for name in ("TIFF, deflate", "TIFF, LZW"):
        data = CUT[name]
        damaged = data[: len(data) // 2] + bytes(512) + data[len(data) // 2 + 512 :]
        with pytest.raises(ValueError, match="damaged"):
            decode_pixels(damaged)


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
    assert np.array_equal(decode_pixels(CUT["TIFF, LZW"]), GRAY)
    assert vars(Image)["MAX_IMAGE_PIXELS"] == LABELS.size // 2 - 1


# --- masks -----------------------------------------------------------------------------------------------------------

LABELS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, "P")
    image.putpalette([(70 * i + 5) % 256 for i in range(768)])
    return image


def test_stored_values_are_those_that_were_written() -> None:
    packed = {
        1: b"\0\x50\0\xa0",
        2: b"\0\x1b\0\xe4",
        4: b"\0\x01\x23\0\x32\x10",
    }  # rows of LABELS, or of its lowest bit
    for depth, rows in packed.items():
        values = decode_labels(png((4, 2, depth, 0), rows))
        assert values.tolist() == (LABELS & 1 if depth == 1 else LABELS).tolist(), depth
    for data in (
        by_pillow(palette(LABELS), "PNG"),
        by_pillow(palette(LABELS), "TIFF"),
        by_pillow(palette(LABELS), "BMP"),
    ):
        assert decode_labels(data).tolist() == LABELS.tolist()
    for kind in ("PNG", "TIFF", "BMP"):
        assert decode_labels(by_pillow(Image.fromarray(LABELS * 85).convert("1", dither=0), kind)).max() == 1
        assert decode_labels(by_pillow(LABELS, kind)).tolist() == LABELS.tolist()
    for data in (by_pillow(DEEP, "PNG"), by_pillow(DEEP, "TIFF"), tiff(DEEP, compress=True)):
        assert decode_labels(data).tolist() == DEEP.tolist()


def test_colours_of_16_bits_keep_all_of_them() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([DEEP, DEEP + 1, DEEP + 2]))
    assert np.array_equal(decode_labels(png((3, 2, 16, 2), rows)), np.dstack([DEEP, DEEP + 1, DEEP + 2]))


@pytest.mark.parametrize(
    ("values", "sample_format", "message"),
    [
        (
            np.array([[0, 0.99, 1, 0.5]], np.float32),
            3,
            "2 values that are not whole numbers from 0 to 65535, such as 0.99",
        ),
        (np.array([[np.nan, 1]], np.float64), 3, "1 values .* such as nan"),
        (np.array([[np.inf, 1]], np.float32), 3, "1 values .* such as inf"),
        (np.array([[0, -1, 1]], np.int8), 2, "1 values .* such as -1"),
        (np.array([[0, -3, -3]], np.int32), 2, "2 values .* such as -3"),
        (np.array([[65535, 65536]], np.uint32), 1, "1 values .* such as 65536"),
    ],
)
def test_values_that_are_no_labels_are_counted_and_shown(values: np.ndarray, sample_format: int, message: str) -> None:
    data = tiff(values, sample_format=sample_format)
    assert np.array_equal(decode_values(data), values, equal_nan=values.dtype.kind == "f")
    with pytest.raises(ValueError, match=message):
        decode_labels(data)


def test_whole_numbers_of_any_type_are_labels() -> None:
    for kind, sample_format in ((np.float64, 3), (np.float32, 3), (np.int32, 2), (np.int16, 2), (np.uint32, 1)):
        labels = decode_labels(tiff(np.array([[0, 1, 300]], kind), sample_format=sample_format))
        assert (labels.dtype, labels.tolist()) == (np.uint16, [[0, 1, 300]])
    assert to_labels(np.array([True, False])).tolist() == [1, 0]


def test_masks_that_lose_values_are_refused() -> None:
    for data, kind in ((by_pillow(GRAY, "JPEG"), "JPEG"), (by_pillow(GRAY, "WEBP"), "WebP")):
        with pytest.raises(ValueError, match=f"{kind} does not keep the values of masks"):
            decode_values(data)


def test_a_damaged_mask_that_pillow_would_complete_is_refused() -> None:
    pixels = GRAY[:40, :60] >> 6
    data = by_pillow(palette(pixels), "PNG")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with contextlib.suppress(ValueError):
            assert np.array_equal(decode_values(bytes(damaged)), pixels), position
    with pytest.raises(ValueError, match="damaged PNG: cut short"):
        decode_values(data[:-12])


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


def test_own_masks_take_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from steel.shards.mask_codec import encode_mask

    for name in ("read_by_pillow", "_decode_by_opencv"):
        monkeypatch.setattr(decode, name, lambda *_: pytest.fail("took the slow way"))
    for kind in (np.uint8, np.uint16):
        decode_labels(encode_mask(np.eye(5, 7, dtype=kind)))
