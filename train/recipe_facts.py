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


def machine_class(kind: Literal["cpu", "gpu"], num_bytes: float) -> MachineClass:
    """The class of a machine by its memory; a part of that is always taken by others, so a sixteenth may be missing."""
    fitting = [size for size in MEMORY_CLASSES if num_bytes >= size * 1e9 * 15 / 16]
    return MachineClass(kind, max(fitting, default=MEMORY_CLASSES[0]), is_below=not fitting)
