"""Images of any sizes on their way into the batches of forward passes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from steel.images.geometry import images_per_pass, pad_to_stride, resize_image
from steel.images.listing import read_image
from steel.images.pixel_format import Depth, to_channels
from steel.inference.sources import NamedImage

_PASSES_AHEAD = 16
"""An image waits for others of its size until so many passes' worth of pixels have come after it."""


class ImageProbs(NamedTuple):
    """Quantised probabilities (0 to 255) of a batch of B images, after all views and members, on the CPU."""

    mask_probs: np.ndarray
    """(B, C, H, W) uint8."""
    label_probs: np.ndarray
    """(B, 1 + C) uint8: any defect, then each class."""
    is_finite: np.ndarray
    """(B,) bool: where False, some number on the way was not, and neither of the others says anything of the image."""


Cleared = Callable[[np.ndarray], np.ndarray]
"""From P(any defect) (B,) uint8 to (B,) bool: images that have no masks, whatever else is found."""


class Prepared(NamedTuple):
    """An image as the network takes it."""

    number: int
    """Its place among all images, from 0."""
    pixels: np.ndarray
    """(c, H, W) uint8, whole strides."""
    size: tuple[int, int]
    """Height and width before padding."""
    image_id: str
    image: np.ndarray
    """(H, W) or (H, W, 3) uint8: before resizing."""


def prepare(
    number: int, named: NamedImage, channels: int, depth: Depth, input_size: tuple[int, int] | None, stride: int
) -> Prepared:
    """Read an image, unless it is there, and bring it to a network's channels, its size, if there is one, and stride.

    Raises:
        InputError: unreadable, or of another shape or type.
    """
    source = named.pixels
    image = source if isinstance(source, np.ndarray) else read_image(source, channels, depth)
    image = to_channels(depth.to_uint8(image), channels)
    if named.is_lent and np.may_share_memory(image, source):
        image = image.copy()
    pixels = image if input_size is None else resize_image(image, input_size)
    padded = pad_to_stride(pixels, stride)
    planes = padded[None] if padded.ndim == 2 else padded.transpose(2, 0, 1)
    return Prepared(number, planes, (pixels.shape[0], pixels.shape[1]), named.image_id, image)


class _Group(NamedTuple):
    """Images of one padded size that wait for more."""

    since: int
    """Pixels of all images that had come before the first of them."""
    members: list[Prepared]


def group_by_size(
    images: Iterable[Prepared], pixels_per_pass: int, budget: int | None = None, views: int = 1
) -> Iterator[list[Prepared]]:
    """Images of one padded size in groups that fill a forward pass, or have waited long enough for more to come: a rare
    size must not hold up all that follows. Images are taken only as far as needed."""
    waiting: dict[tuple[int, ...], _Group] = {}
    pixels = 0
    for image in images:
        shape = image.pixels.shape
        places = images_per_pass(shape[1], shape[2], pixels_per_pass, budget, views)
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


def make_batch(
    group: Sequence[Prepared], pixels_per_pass: int, budget: int | None = None, views: int = 1
) -> np.ndarray:
    """The batch (B, c, H, W) uint8 for a forward pass over images of one padded size; what is left over is black."""
    channels, height, width = group[0].pixels.shape
    places = images_per_pass(height, width, pixels_per_pass, budget, views)
    batch = np.zeros((places, channels, height, width), np.uint8)
    for place, image in zip(batch, group, strict=False):
        place[:] = image.pixels
    return batch
