"""A gray PNG codec for masks: files that any decoder reads and that ours reads several times faster.

Masks are written without row filters, in one run of zlib's fastest level. Measured on real 256x1600 masks: 4 KB and
0.07 ms to decode here, against 0.55 ms for the smallest files (1.2 KB) and 0.42 ms for OpenCV's own fastest.
"""

import io
import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IDAT = 33  # where the chunk with the pixels starts: after the signature and IHDR
_OVERHEAD = _IDAT + 12 + 12  # and the frames of IDAT and IEND


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W) of uint8 or uint16 as a gray PNG of 8 or 16 bits."""
    assert pixels.ndim == 2, pixels.shape
    assert pixels.dtype in (np.uint8, np.uint16), pixels.dtype
    height, width = pixels.shape
    rows = np.zeros((height, 1 + width * pixels.itemsize), np.uint8)  # each row: its filter (none), then its pixels
    rows[:, 1:] = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
        for name, data in chunks
    )


def decode_png(data: bytes) -> np.ndarray:
    """Stored values of a PNG: (H, W), or (H, W, channels) for one with colours; uint8 or uint16. Maybe read-only.

    Raises:
        ValueError: not a PNG, or damaged.
    """
    pixels = _decode_own(data)
    return _decode_any(data) if pixels is None else pixels


def _decode_own(data: bytes) -> np.ndarray | None:
    """The pixels of a PNG as `encode_png` writes it; None for any other PNG.

    zlib's own sum over all pixels is left out: it costs more than the decoding. The chunk's CRC is checked instead.
    """
    idat_length = len(data) - _OVERHEAD
    if idat_length < 6 or data[:16] != _SIGNATURE + b"\0\0\0\rIHDR":
        return None
    width, height, depth, *how = struct.unpack_from(">IIBBBBB", data, 16)
    length, name = struct.unpack_from(">I4s", data, _IDAT)
    if depth not in (8, 16) or any(how) or name != b"IDAT" or length != idat_length:
        return None
    end = _IDAT + 8 + length
    if struct.unpack_from(">I", data, end)[0] != zlib.crc32(data[_IDAT + 4 : end]):
        raise ValueError("damaged PNG: wrong checksum")
    itemsize = depth // 8
    size = height * (1 + width * itemsize)
    try:
        raw = zlib.decompress(data[_IDAT + 10 : end], -15, size)
    except zlib.error as error:
        raise ValueError(f"damaged PNG: {error}") from error
    if len(raw) != size:
        raise ValueError("damaged PNG: wrong number of pixels")
    rows = np.frombuffer(raw, np.uint8).reshape(height, -1)
    if rows[:, 0].any():
        return None  # its rows are filtered: somebody else's
    pixels = np.ascontiguousarray(rows[:, 1:])
    return pixels if itemsize == 1 else pixels.view(">u2").astype(np.uint16)


def _decode_any(data: bytes) -> np.ndarray:
    """Any PNG, palette indices as they are. By Pillow: OpenCV would turn palettes into colours."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image)
            if image.format == "PNG" and data[25] == 0 and data[24] in (2, 4):  # gray of 2 or 4 bits
                pixels = pixels // (255 // (2 ** data[24] - 1))  # Pillow stretches it to 0..255
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a readable PNG: {error}") from error
    return pixels.astype(np.uint16 if pixels.dtype.itemsize > 1 else np.uint8)
