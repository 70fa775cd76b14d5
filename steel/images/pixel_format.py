"""What an image may be, and what it becomes before a network sees it: 8 bits a value, one or three channels."""

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from steel.errors import InputError

MAX_PIXELS = 1 << 30
MAX_SIDE = 1_000_000
"""Larger images are refused: OpenCV's bound on pixels, and libpng's on sides, for all formats alike."""

_Rule = Literal["8-bit", "high-byte"]


@dataclass(frozen=True)
class Depth:
    """How images of more than 8 bits become images of 8.

    It is decided when a set is sharded, stands in its manifest and in the checkpoint, and is applied to every image
    that is predicted: a network sees what it was trained on.
    """

    rule: _Rule = "8-bit"
    """`8-bit`: no other images than those; `high-byte`: 16-bit ones, too, by the upper byte of each value."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(_Rule):
            raise InputError(f"depth {self.rule!r} is none that this program knows ({', '.join(get_args(_Rule))})")

    def to_uint8(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of any shape as uint8; themselves where they are.

        Raises:
            InputError: of a depth that the rule does not cover.
        """
        if pixels.dtype == np.uint8:
            return pixels
        if pixels.dtype != np.uint16:
            raise InputError(f"{pixels.dtype} pixels; convert them to 8 bits first, as those trained on")
        if self.rule != "high-byte":
            raise InputError(
                "16 bits a pixel; --convert-16bit of data_prep keeps the upper 8, in training and prediction"
            )
        return (pixels >> 8).astype(np.uint8)


EIGHT_BITS = Depth()
"""The rule of most sets."""


def check_size(width: int, height: int) -> None:
    """Raises InputError where an image has too many pixels to be decoded."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(f"{height}x{width} pixels: at most {MAX_PIXELS:,} are read; cut it into tiles")


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
