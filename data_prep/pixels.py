"""One image on its way into a shard: read, check, reduce, measure."""

from typing import NamedTuple

import cv2
import numpy as np

from steel.data.geometry import resize_image

_JPEG_QUALITY = 95


class StoredImage(NamedTuple):
    """An image as it goes into the tar, and its decoded pixels."""

    data: bytes
    extension: str
    pixels: np.ndarray
    """(H, W) uint8 when gray, (H, W, 3) uint8 in BGR when not."""
    original_size: tuple[int, int]
    """Height and width before any reduction."""

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


class PixelSums(NamedTuple):
    """What an image adds to the mean and standard deviation of all; exact integers, so any order of adding agrees."""

    is_gray: bool
    sums: tuple[int, int, int]
    """Of the values, R, G, B."""
    squares: tuple[int, int, int]
    """Of the squared values."""


def load_image(
    data: bytes, extension: str, *, resize: tuple[int, int] | None = None, convert_16bit: bool = False
) -> StoredImage:
    """Decode an image once for all that follows; its bytes stay as they are unless something must change.

    Args:
        data: The encoded file.
        extension: Of its name, without the dot.
        resize: Height and width to store; the result is a JPEG if the file is one, else a PNG.
        convert_16bit: Keep the upper 8 of 16 bits, as a PNG.

    Raises:
        ValueError: unreadable, truncated, or of a depth that is not wanted.
    """
    pixels = _decode(data)
    if pixels.dtype == np.uint16 and convert_16bit:
        data, extension = _encode((pixels >> 8).astype(np.uint8), "png")
        pixels = _decode(data)
    elif pixels.dtype == np.uint16:
        raise ValueError("16 bits a pixel; --convert-16bit keeps the upper 8")
    elif pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.dtype} pixels; convert them to 8 bits first")
    original_size = pixels.shape[:2]
    if resize is not None and resize != original_size:
        data, extension = _encode(resize_image(pixels, resize), extension)
        pixels = _decode(data)
    return StoredImage(data, extension, pixels, original_size)


def _decode(data: bytes) -> np.ndarray:
    """Pixels (H, W) when gray, else (H, W, 3) in BGR, in the file's own depth; without EXIF rotation and alpha."""
    if data[:2] == b"\xff\xd8" and data[-2:] != b"\xff\xd9" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("truncated")  # OpenCV 4 fills what is missing with gray and says nothing
    how = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION  # faster than IMREAD_UNCHANGED
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None
    if pixels is None:
        raise ValueError("unreadable")
    return cv2.extractChannel(pixels, 0) if pixels.ndim == 3 and _is_gray(pixels) else pixels


def _is_gray(pixels: np.ndarray) -> bool:
    """Whether R = G = B in all pixels (H, W, 3); in blocks of rows that stay in the cache."""
    rows = max(1, (1 << 16) // pixels.shape[1])
    return all(
        cv2.norm(cv2.cvtColor(cv2.extractChannel(block, 0), cv2.COLOR_GRAY2BGR), block, cv2.NORM_INF) == 0
        for block in (pixels[start : start + rows] for start in range(0, len(pixels), rows))
    )


def _encode(pixels: np.ndarray, extension: str) -> tuple[bytes, str]:
    if extension in ("jpg", "jpeg"):
        encoded, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    else:
        extension = "png"
        encoded, data = cv2.imencode(".png", pixels)
    assert encoded
    return data.tobytes(), extension


def ignored_area(bitmask: np.ndarray, ignore_bit: int | None) -> int:
    """Pixels of a bitmask that have no truth."""
    return 0 if ignore_bit is None else int(np.count_nonzero(bitmask >> bitmask.dtype.type(ignore_bit) & 1))


def gray_of(pixels: np.ndarray) -> np.ndarray:
    """The brightness (H, W) of decoded pixels."""
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)


def pixel_sums(pixels: np.ndarray) -> PixelSums:
    """Exact sums over the decoded pixels of one image."""
    planes = [pixels] if pixels.ndim == 2 else list(cv2.split(pixels))[::-1]
    sums = [round(cv2.sumElems(plane)[0]) for plane in planes]
    squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]  # rounding: its last bit may be off
    if len(planes) == 1:
        sums, squares = sums * 3, squares * 3
    return PixelSums(len(planes) == 1, (sums[0], sums[1], sums[2]), (squares[0], squares[1], squares[2]))


def mean_and_std(num_pixels: int, sums: list[int], squares: list[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, in 0..1, from sums over all images; exact up to the last division."""
    means = tuple(total / (255 * num_pixels) for total in sums)
    variances = [square * num_pixels - total * total for total, square in zip(sums, squares, strict=True)]
    return means, tuple(max(v, 0) ** 0.5 / (255 * num_pixels) for v in variances)
