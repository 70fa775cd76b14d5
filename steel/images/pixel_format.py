"""What an image may be, and what it becomes before a network sees it: 8 bits a value, one or three channels."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import cv2
import numpy as np

from steel.errors import InputError

MAX_PIXELS = 1 << 30
MAX_SIDE = 1_000_000
"""Larger images are refused: OpenCV's bound on pixels, and libpng's on sides, for all formats alike."""
MAX_RESIZED_SIDE = (1 << 15) - 1
"""Of the size that images are resized to, which a checkpoint tells."""

MAX_LEVEL = 65535
"""The highest value of 16 bits."""

_Rule = Literal["8-bit", "high-byte", "window"]


@dataclass(frozen=True)
class Depth:
    """How images of 16 bits become what a network sees: 8 bits. Images of 8 bits stay as they are.

    It is decided when a set is sharded, stands in its manifest and in the checkpoint, and is applied wherever an image
    is decoded: in training, evaluation and prediction alike.
    """

    rule: _Rule = "8-bit"
    """`8-bit`: no images of more; `high-byte`: the upper byte of each value; `window`: `low` and less become 0, `high`
    and more 255, and what lies between goes to the nearest of the steps between."""
    low: int = 0
    """Of the window."""
    high: int = MAX_LEVEL
    """Of the window, above `low`."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(_Rule):
            raise InputError(f"depth {self.rule!r} is none that this program knows ({', '.join(get_args(_Rule))})")
        if not 0 <= self.low < self.high <= MAX_LEVEL:
            raise InputError(f"depth: {self.low} to {self.high} is no window of values from 0 to {MAX_LEVEL}")
        if self.rule != "window" and (self.low, self.high) != (0, MAX_LEVEL):
            raise InputError(f"depth: {self.rule} has no window")

    def __str__(self) -> str:
        return f"window {self.low} {self.high}" if self.rule == "window" else self.rule

    def to_uint8(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of any shape as uint8; themselves where they are.

        Raises:
            InputError: of a depth that the rule does not cover.
        """
        if pixels.dtype == np.uint8:
            return pixels
        if pixels.dtype != np.uint16:
            raise InputError(f"{pixels.dtype} pixels; convert them to 8 or 16 bits first, as those trained on")
        if self.rule == "8-bit":
            raise InputError("16 bits a pixel; --depth of data_prep says how they become 8, in training and prediction")
        if self.rule == "high-byte":
            return (pixels >> 8).astype(np.uint8)
        return np.take(_window_table(self.low, self.high), pixels)


@lru_cache(maxsize=4)
def _window_table(low: int, high: int) -> np.ndarray:
    """What each of the values of 16 bits becomes: (65536,) uint8, `255 (v - low) / (high - low)`, halves rounded up."""
    above = np.clip(np.arange(MAX_LEVEL + 1), low, high) - low
    return ((2 * 255 * above + (high - low)) // (2 * (high - low))).astype(np.uint8)


EIGHT_BITS = Depth()
"""The rule of most sets."""


class TooManyPixels(InputError):
    """An image too large to be decoded."""


def check_size(width: int, height: int) -> None:
    """Raises TooManyPixels where an image has too many to be decoded."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise TooManyPixels(f"{height}x{width} pixels: at most {MAX_PIXELS:,} are read; cut it into tiles")


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """A gray (H, W) or RGB (H, W, 3) uint8 image as what a network of 1 or 3 channels takes, in the same two forms.

    Raises:
        InputError: of another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or 0 in image.shape:
        raise InputError(f"an image must be (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if channels == 1:
        return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
