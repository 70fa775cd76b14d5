"""Images of any sizes on their way into the batches of forward passes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from steel.errors import InputError
from steel.images.geometry import images_per_pass, pad_to_stride, resize_image
from steel.images.listing import read_image
from steel.images.pixel_format import Depth, to_channels

Image = np.ndarray | str | os.PathLike[str]
"""Pixels, or where to read them: a path or URL."""
_PASSES_AHEAD = 16
"""An image waits for others of its size until so many passes' worth of pixels have come after it."""


class Prepared(NamedTuple):
    """An image as the network takes it."""

    number: int
    """Its place among all images, from 0."""
    pixels: np.ndarray
    """(c, H, W) uint8, whole strides."""
    size: tuple[int, int]
    """Height and width before padding."""
    image_id: str
    """The path or URL it was given by; for an array its number."""
    image: np.ndarray
    """(H, W) or (H, W, 3) uint8: before resizing."""


def check_plural(images: Iterable[Image]) -> None:
    """Refuse a single image in place of several: going through it would predict its letters or its rows.

    Raises:
        InputError: a path, or an array that looks like one image.
    """
    single = isinstance(images, np.ndarray) and (images.ndim < 3 or images.shape[2:] == (3,))
    if single or isinstance(images, str | os.PathLike):
        raise InputError("predict takes several images and predicts each; for one give a list of one: [image]")


def prepare(
    number: int, image: Image, channels: int, depth: Depth, input_size: tuple[int, int] | None, stride: int
) -> Prepared:
    """Read an image, unless it is there, and bring it to a network's channels, its size, if there is one, and stride.

    Raises:
        InputError: unreadable, or of another shape or type.
    """
    image_id = str(number)
    if isinstance(image, str | os.PathLike):
        image_id = os.fspath(image)
        image = read_image(image, channels, depth)
    elif not isinstance(image, np.ndarray):
        raise InputError(f"an image must be a numpy array or the path of a file, not {type(image).__name__}")
    image = to_channels(depth.to_uint8(image), channels)
    pixels = image if input_size is None else resize_image(image, input_size)
    padded = pad_to_stride(pixels, stride)
    planes = padded[None] if padded.ndim == 2 else padded.transpose(2, 0, 1)
    return Prepared(number, planes, (pixels.shape[0], pixels.shape[1]), image_id, image)


class _Group(NamedTuple):
    """Images of one padded size that wait for more."""

    since: int
    """Pixels of all images that had come before the first of them."""
    members: list[Prepared]


def group_by_size(images: Iterable[Prepared], pixels_per_pass: int) -> Iterator[list[Prepared]]:
    """Images of one padded size in groups that fill a forward pass, or have waited long enough for more to come: a rare
    size must not hold up all that follows. Images are taken only as far as needed."""
    waiting: dict[tuple[int, ...], _Group] = {}
    pixels = 0
    for image in images:
        shape = image.pixels.shape
        places = images_per_pass(shape[1], shape[2], pixels_per_pass)
        group = waiting.setdefault(shape, _Group(pixels, []))
        group.members.append(image)
        pixels += image.image.shape[0] * image.image.shape[1]
        if len(group.members) == places:
            yield waiting.pop(shape).members
        while waiting:
            oldest = next(iter(waiting))
            if pixels - waiting[oldest].since <= _PASSES_AHEAD * pixels_per_pass:
                break
            yield waiting.pop(oldest).members
    for group in waiting.values():
        yield group.members


def make_batch(group: Sequence[Prepared], pixels_per_pass: int) -> np.ndarray:
    """The batch (B, c, H, W) uint8 for a forward pass over images of one padded size; what is left over is black."""
    channels, height, width = group[0].pixels.shape
    batch = np.zeros((images_per_pass(height, width, pixels_per_pass), channels, height, width), np.uint8)
    for place, image in zip(batch, group, strict=False):
        place[:] = image.pixels
    return batch
