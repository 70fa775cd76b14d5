"""Masks that were made at another size of their image."""

import cv2
import numpy as np

_TOLERANCE = 0.02
"""By how much sides that were rounded to whole pixels may make a shape look different."""


def same_shape(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two sizes (height, width) can be one picture reduced or enlarged: not cut, not turned."""
    if not (min(size) and min(other)):
        return False
    rounding = 1 / min(*size, *other)
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= max(_TOLERANCE, rounding)


def resize_plane(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask of uint8 0/1 at (height, width): each pixel takes the value at its centre, so none becomes soft."""
    if plane.shape == (height, width):
        return plane
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
