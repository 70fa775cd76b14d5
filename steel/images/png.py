"""PNG files: their frame, checked byte by byte, and a gray codec for masks that any decoder reads.

Masks are written without row filters, in one run of zlib's fastest level. Measured on real 256x1600 masks: 4 KB and
0.07 ms to decode here, against 0.55 ms for the smallest files (1.2 KB) and 0.42 ms for OpenCV's own fastest.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from steel.images.pixel_format import check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IDAT = 33  # where the chunk with the pixels starts: after the signature and IHDR
_OVERHEAD = _IDAT + 12 + 12  # and the frames of IDAT and IEND


class PngHeader(NamedTuple):
    """What the first chunk says."""

    width: int
    height: int
    depth: int
    """Bits a value: 1, 2, 4, 8 or 16."""
    colour_type: int
    """0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGB with alpha."""

    @property
    def is_palette(self) -> bool:
        """Whether values are places in a table of colours."""
        return self.colour_type == 3


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W) of uint8 or uint16 as a gray PNG of 8 or 16 bits."""
    assert pixels.ndim == 2, pixels.shape
    assert pixels.dtype in (np.uint8, np.uint16), pixels.dtype
    height, width = pixels.shape
    rows = np.zeros((height, 1 + width * pixels.itemsize), np.uint8)  # each row: its filter (none), then its pixels
    rows[:, 1:] = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
        for name, data in chunks
    )


def check_png(data: bytes) -> PngHeader:
    """Walk through all chunks: each must be there, up to the last, and match its checksum.

    Decoders differ in what they let pass: Pillow fills what is missing with black, and reads files without an end.

    Raises:
        ValueError: cut short, damaged, too large, or an animation, of which decoders give the first frame alone.
    """
    view, end, name, frames = memoryview(data), len(SIGNATURE), b"", 1
    try:
        length, name, width, height, depth, colour_type = struct.unpack_from(">I4sIIBB", view, end)
        if (length, name) != (13, b"IHDR"):
            raise ValueError("damaged PNG: it does not begin with its header")
        while name != b"IEND":
            start = end
            length, name = struct.unpack_from(">I4s", view, start)
            end = start + 12 + length
            if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack_from(">I", view, end - 4)[0]:
                raise ValueError("damaged PNG: wrong checksum")
            if name == b"acTL":
                frames = struct.unpack_from(">I", view, start + 8)[0]
    except struct.error as error:
        raise ValueError("damaged PNG: cut short") from error
    check_size(width, height)
    if frames > 1:
        raise ValueError(f"an animated PNG of {frames} frames; save each frame as a file of its own")
    return PngHeader(width, height, depth, colour_type)


def decode_unfiltered(data: bytes) -> np.ndarray | None:
    """The pixels (H, W) of a PNG as `encode_png` writes it; None for any other. Maybe read-only.

    `check_png` has seen it before: zlib's own sum over all pixels, which costs more than the decoding, is left out.

    Raises:
        ValueError: damaged.
    """
    idat_length = len(data) - _OVERHEAD
    if idat_length < 6:
        return None
    width, height, depth, *how = struct.unpack_from(">IIBBBBB", data, 16)
    length, name = struct.unpack_from(">I4s", data, _IDAT)
    if depth not in (8, 16) or any(how) or name != b"IDAT" or length != idat_length:
        return None
    itemsize = depth // 8
    size = height * (1 + width * itemsize)
    try:
        raw = zlib.decompress(data[_IDAT + 10 : _IDAT + 8 + length], -15, size)
    except zlib.error as error:
        raise ValueError(f"damaged PNG: {error}") from error
    if len(raw) != size:
        raise ValueError("damaged PNG: wrong number of pixels")
    rows = np.frombuffer(raw, np.uint8).reshape(height, -1)
    if rows[:, 0].any():
        return None  # its rows are filtered: somebody else's
    pixels = np.ascontiguousarray(rows[:, 1:])
    return pixels if itemsize == 1 else pixels.view(">u2").astype(np.uint16)
