"""Sizes of images on their way into a network and of probabilities on their way back, in one place for all."""

import cv2
import numpy as np


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W[, 3]) at another height and width: each side that shrinks by area averages, then each that grows
    bilinear. OpenCV averages only where no side grows; where one does, it skips pixels of the one that shrinks."""
    smaller = min(image.shape[0], size[0]), min(image.shape[1], size[1])
    if smaller != image.shape[:2]:
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    return image if smaller == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


_EMPTY_SHARE = 0.05
"""Of a pass that may stay empty so that views can share it."""


def images_per_pass(height: int, width: int, pixels_per_pass: int, budget: int | None = None, views: int = 1) -> int:
    """How many images of one padded size share a forward pass: as many as `pixels_per_pass` holds, but at least one.

    Images of more pixels than `budget`, which are taken in tiles, come one by one. Where `views` of an image may share
    a pass, there are fewer images and as many more views of each, see `views_per_pass`, so that a pass has no more
    pixels and an image that comes alone leaves fewer places empty; but only so many that the passes stay full.

    The last bits of a network's answer depend on the shape of its batch. Everywhere that shape is this function of the
    padded size, with black images in the places that are left, so an image's answer depends on nothing but the image,
    and an image of a rare size costs no more than `pixels_per_pass` or its own pixels.
    """
    if budget is not None and height * width > budget:
        return 1
    places = max(1, pixels_per_pass // (height * width))
    for shared in _divisors(views):
        if (images := places // shared) * shared >= max(1, (1 - _EMPTY_SHARE) * places):
            return images
    return places


def views_per_pass(pixels: int, pixels_per_pass: int, views: int) -> int:
    """How many of the views of a batch of so many pixels share a forward pass; all of its passes have as many."""
    return next((shared for shared in _divisors(views) if shared * pixels <= pixels_per_pass), 1)


def _divisors(number: int) -> list[int]:
    """From the greatest to 1."""
    return [some for some in range(number, 0, -1) if number % some == 0]


def pad_to_stride(image: np.ndarray, stride: int) -> np.ndarray:
    """`pad_image` to the next multiples of `stride`."""
    height, width = image.shape[:2]
    return pad_image(image, height + -height % stride, width + -width % stride)


def pad_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (H, W[, 3]) reflected at its bottom and right edges up to `height` and `width`.

    The same pixels as the network's own padding (`steel.model.network.reflect_to_stride`), so that images of several
    sizes can share a batch and none is padded differently for it.
    """
    below, right = height - image.shape[0], width - image.shape[1]
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101) if below or right else image


def restore_size(mask_probs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Quantised probabilities (C, h, w) uint8 at an image's original height and width: bilinear, rounded to integers.

    The only way from a network's size to the original one, so that tuning and prediction compare equal integers.
    """
    if mask_probs.shape[1:] == (height, width):
        return mask_probs
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in mask_probs]
    return np.stack(planes)


def resize_bitmask(bitmask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A bitmask (H, W) at another height and width: a bit is set where it covers at least half of the new pixel."""
    if bitmask.shape == size:
        return bitmask
    present = int(np.bitwise_or.reduce(bitmask, axis=None))
    resized = np.zeros(size, bitmask.dtype)
    for bit in (bitmask.dtype.type(1 << k) for k in range(8 * bitmask.itemsize) if present >> k & 1):
        plane = np.where(bitmask & bit, np.uint8(255), np.uint8(0))
        resized[resize_image(plane, size) >= 128] |= bit
    return resized


def count_tiles(lengths: np.ndarray, size: int, overlap: int) -> np.ndarray:
    """How many tiles of `size` pixels cover each of `lengths`, where neighbours share `overlap` pixels at least."""
    return np.where(lengths > size, -(-(lengths - overlap) // (size - overlap)), 1)


def tile_starts(numbers: np.ndarray, num: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Where the tiles with these `numbers`, of `num` that are spread evenly over a side, start: the last ends with it.

    Args:
        numbers: (n,) int64 from 0.
        num: tiles along the side.
        lengths: of the side.
        sizes: of a tile, at most the side's length.
    """
    return numbers * (lengths - sizes) // np.maximum(1, num - 1)
