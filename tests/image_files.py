"""Image files for tests: of two pictures and a mask, by Pillow, or made byte by byte where no library writes them."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

GRAY = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (123, 201), np.uint8), (5, 5), 1.5)
RGB = np.dstack([GRAY, np.roll(GRAY, 40), np.roll(GRAY, 90)])
DEEP = np.array([[0, 300, 65535], [255, 256, 511]], np.uint16)
LABELS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)


def by_pillow(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, "P")
    image.putpalette([(70 * i + 5) % 256 for i in range(768)])
    return image


def png(header: tuple[int, ...], rows: bytes) -> bytes:
    """A PNG from width, height, depth, colour type and its raw rows."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def bmp(indices: np.ndarray, bits: int, colours: list[tuple[int, int, int]]) -> bytes:
    """A BMP from (H, W) of uint8, an even number of columns, at 4 or 8 bits a pixel, with a palette of just these."""
    rows = indices[::-1] if bits == 8 else indices[::-1, ::2] << 4 | indices[::-1, 1::2]
    data = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()
    table = b"".join(struct.pack("4B", blue, green, red, 0) for red, green, blue in colours)
    start, (height, width) = 54 + len(table), indices.shape
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(data), 0, 0, len(colours), 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + table + data


def tiff(
    pixels: np.ndarray,
    *,
    sample_format: int = 1,
    orientation: int = 1,
    compress: bool = False,
    packed: tuple[int, bytes] | None = None,
    gray: int = 1,
) -> bytes:
    """A little-endian TIFF of one strip, from (H, W) of any type or (H, W, 3); or values packed in so many bits. What
    is gray has 0 as black, or as white where `gray` is 0."""
    height, width, channels = (*pixels.shape, 1)[:3]
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() if packed is None else packed[1]
    data = zlib.compress(data) if compress else data
    length, data = len(data), data + bytes(len(data) % 2) + struct.pack("<3H", *[8 * pixels.itemsize] * 3)
    one = 8 * pixels.itemsize if packed is None else packed[0]
    bits = one if channels == 1 else len(data) + 2  # or where three of them are
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 4, 1, 8 if compress else 1)]
    tags += [(262, 4, 1, gray if channels == 1 else 2), (273, 4, 1, 8), (274, 4, 1, orientation), (277, 4, 1, channels)]
    tags += [(278, 4, 1, height), (279, 4, 1, length)] + ([(339, 4, 1, sample_format)] if channels == 1 else [])
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


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
