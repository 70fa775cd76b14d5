"""What `--preset auto` goes by: what the shards say of themselves, and what a machine can hold."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from train.level_difference import LevelDifference

STRIDE = 32
"""Of auto's encoders: images are padded to whole ones."""


@dataclass(frozen=True)
class DataFacts:
    """What a manifest and its index say of a set; nothing here needs an image to be read."""

    images: int
    """What training draws: of large images their stored tiles, each of which counts as an image in all that follows."""
    clean: int
    """Images without any class."""
    class_names: tuple[str, ...]
    images_per_class: tuple[int, ...]
    size: tuple[int, int]
    """Height and width of the image with the median area, as stored."""
    largest: tuple[int, int]
    """Largest height and largest width."""
    has_smaller: bool = False
    """Whether one has fewer pixels than the median, which `largest` does not tell."""
    box: tuple[int, int] | None = None
    """Height and width that hold all of about the median's pixels or fewer, where many of them are of another shape, as
    upright ones among lying ones; None where few are. See `box_of_shapes`."""
    whole: tuple[int, int] | None = None
    """Those of whole images where these are tiles, as the shards store large images; None where none is larger."""
    most_pixels: int | None = None
    """Of one whole image, padded to whole `STRIDE`s; None where an image has the greatest height and width both."""
    levels: LevelDifference | None = None
    """How the gray levels of whole images differ between the folds; None where the shards do not tell."""

    @property
    def is_one_size(self) -> bool:
        """Whether all are of `size`."""
        return self.largest == self.size and not self.has_smaller


@dataclass(frozen=True)
class MachineClass:
    """What decides which micro-batch fits: machines of one class get one recipe."""

    kind: Literal["cpu", "gpu"]
    memory_gb: int
    """Of one GPU or of the host: one of `MEMORY_CLASSES`."""
    is_below: bool = False
    """It has less than the smallest class, whose recipe it gets."""

    def __str__(self) -> str:
        less = "less than " if self.is_below else ""
        return f"{'a GPU' if self.kind == 'gpu' else 'a CPU'} with {less}{self.memory_gb} GB"


_ALIKE, _MANY = 1.25, 0.1
"""An image has about as many pixels as another where it has at most so many times as many, and another shape where it
has more than so many times what of it a crop of that size shows; share of the images that counts as many."""
MEMORY_CLASSES = (4, 8, 12, 16, 24, 32, 40, 48, 80)
"""In units of 10**9 bytes; a machine is of the largest class that it fills nearly, one with less of the smallest."""


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what the network is given of an image."""
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def padded_pixels(size: tuple[int, int]) -> int:
    """What the network is given of an image of that height and width."""
    return math.prod(padded(size))


def most_padded_pixels(heights: npt.ArrayLike, widths: npt.ArrayLike) -> int:
    """The most that it is given of one of these images; 0 of none."""
    tall, wide = (-(-np.asarray(sides, np.int64) // STRIDE) * STRIDE for sides in (heights, widths))
    return int(np.max(tall * wide, initial=0))


def box_of_shapes(heights: npt.ArrayLike, widths: npt.ArrayLike, size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width that hold all images of about the median's pixels or fewer, where `_MANY` have another shape.

    Args:
        heights: (N,) of the images.
        widths: (N,) of them.
        size: height and width of the image with the median area.

    Returns:
        None where a crop of the median's size shows most of nearly all of them.
    """
    height, width = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
    pixels, shown = height * width, np.minimum(height, size[0]) * np.minimum(width, size[1])
    alike = pixels <= _ALIKE * math.prod(size)
    if (alike & (pixels > _ALIKE * shown)).sum() < max(1, _MANY * len(pixels)):
        return None
    return int(height[alike].max()), int(width[alike].max())


def machine_class(kind: Literal["cpu", "gpu"], num_bytes: float) -> MachineClass:
    """The class of a machine by its memory; a part of that is always taken by others, so a sixteenth may be missing."""
    fitting = [size for size in MEMORY_CLASSES if num_bytes >= size * 1e9 * 15 / 16]
    return MachineClass(kind, max(fitting, default=MEMORY_CLASSES[0]), is_below=not fitting)
