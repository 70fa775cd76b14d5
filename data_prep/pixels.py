"""One image on its way into a shard: read, check, reduce, measure."""

from typing import NamedTuple

import cv2
import numpy as np

from steel.images.decode import decode_pixels
from steel.images.geometry import resize_image
from steel.images.pixel_format import EIGHT_BITS, Depth
from steel.shards.tiles import TilePlace


class StoredImage(NamedTuple):
    """An image as it goes into the tar, and its decoded pixels."""

    data: bytes
    extension: str
    pixels: np.ndarray
    """(H, W) uint8 when gray, (H, W, 3) RGB uint8 when not."""
    original_size: tuple[int, int]
    """Height and width before any reduction."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self.pixels.shape[0], self.pixels.shape[1]


class PixelSums(NamedTuple):
    """What an image adds to the mean and standard deviation of all; exact integers, so any order of adding agrees."""

    is_gray: bool
    sums: tuple[int, int, int]
    """Of the values, R, G, B."""
    squares: tuple[int, int, int]
    """Of the squared values."""


def load_image(
    data: bytes, extension: str, *, resize: tuple[int, int] | None = None, depth: Depth = EIGHT_BITS
) -> StoredImage:
    """Decode an image once for all that follows; its bytes stay as they are unless it is resized.

    What changes is stored without loss, as PNG of 8 bits: training sees just what prediction makes of the file.

    Args:
        data: The encoded file.
        extension: Of its name, without the dot.
        resize: Height and width to store.
        depth: How 16 bits become 8.

    Raises:
        ValueError: not a whole image, or of a depth that is not wanted.
    """
    pixels = depth.to_uint8(decode_pixels(data))
    if pixels.ndim == 3 and _is_gray(pixels):
        pixels = cv2.extractChannel(pixels, 0)
    original_size = pixels.shape[:2]
    if resize is not None:
        pixels = resize_image(pixels, resize)
    if pixels.shape[:2] != original_size:
        data, extension = _encode(pixels), "png"
    return StoredImage(data, extension, pixels, original_size)


def cut_image(image: StoredImage, place: TilePlace) -> StoredImage:
    """A tile of an image, stored without loss as PNG of 8 bits."""
    pixels = image.pixels[place.inside]
    return StoredImage(_encode(pixels), "png", pixels, pixels.shape[:2])


def _is_gray(pixels: np.ndarray) -> bool:
    """Whether R = G = B in all pixels (H, W, 3); in blocks of rows that stay in the cache."""
    rows = max(1, (1 << 16) // pixels.shape[1])
    return all(
        cv2.norm(cv2.cvtColor(cv2.extractChannel(block, 0), cv2.COLOR_GRAY2BGR), block, cv2.NORM_INF) == 0
        for block in (pixels[start : start + rows] for start in range(0, len(pixels), rows))
    )


def _encode(pixels: np.ndarray) -> bytes:
    """As PNG at OpenCV's own settings: of the lossless ways the quickest.

    Real strips reduced to 128x800, an image: 62 KB, 1.5 ms to write and 1.0 to read; the smallest PNG 59 KB, 2.4 and
    1.1 ms; lossless WebP 57 KB, 39 and 1.6 ms; a JPEG of quality 95, which is not lossless, 38 KB, 0.4 and 0.5 ms.
    """
    encoded, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert encoded
    return data.tobytes()


def ignored_area(bitmask: np.ndarray, ignore_bit: int | None) -> int:
    """Pixels of a bitmask that have no truth."""
    return 0 if ignore_bit is None else int(np.count_nonzero(bitmask >> bitmask.dtype.type(ignore_bit) & 1))


def gray_of(pixels: np.ndarray) -> np.ndarray:
    """The brightness (H, W) of decoded pixels."""
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def pixel_sums(pixels: np.ndarray) -> PixelSums:
    """Exact sums over the decoded pixels of one image."""
    planes = [pixels] if pixels.ndim == 2 else list(cv2.split(pixels))
    sums = [round(cv2.sumElems(plane)[0]) for plane in planes]
    squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]  # rounding: its last bit may be off
    if len(planes) == 1:
        sums, squares = sums * 3, squares * 3
    return PixelSums(len(planes) == 1, (sums[0], sums[1], sums[2]), (squares[0], squares[1], squares[2]))


def mean_and_std(num_pixels: int, sums: list[int], squares: list[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, from sums over all images; exact up to the last division."""
    means = tuple(total / (255 * num_pixels) for total in sums)
    variances = [square * num_pixels - total * total for total, square in zip(sums, squares, strict=True)]
    return means, tuple(max(v, 0) ** 0.5 / (255 * num_pixels) for v in variances)
