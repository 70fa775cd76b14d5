"""Masks that were made at another size of their image, or of its turned view."""

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from steel.images.exif import HOW_TO_TURN, QUARTER_TURNS, exif_orientation
from steel.images.geometry import resize_image
from steel.validation_errors import Issue, ValidationErrors

TURNED = " turned by a quarter against their image"
"""How the kind of an issue goes on with masks or labels that are as high as their image is wide, and the reverse."""

_TOLERANCE = 0.02
"""By how much sides that were rounded to whole pixels may make a shape look different."""


def same_shape(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two sizes (height, width) can be one picture reduced or enlarged: not cut, not turned."""
    if not (min(size) and min(other)):
        return False
    rounding = 1 / min(*size, *other)
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= max(_TOLERANCE, rounding)


@contextmanager
def exif_named(image: bytes) -> Iterator[None]:
    """Names EXIF where labels that the block reads are turned against their image, and viewers are to turn its file.

    Args:
        image: its file.

    Raises:
        ValidationErrors: those of the block, told so.
    """
    try:
        yield
    except ValidationErrors as error:
        if not any(TURNED in issue.kind for issue in error.issues) or exif_orientation(image) not in QUARTER_TURNS:
            raise
        raise ValidationErrors(map(_told_exif, error.issues), error.hint) from error


def _told_exif(issue: Issue) -> Issue:
    what, turned, _ = issue.kind.partition(TURNED)
    if not turned:
        return issue
    why = f"by its EXIF orientation, which viewers alone follow: turn the files themselves, {HOW_TO_TURN}"
    return issue._replace(kind=f"{what}{TURNED} ({why}; or export labels of the stored pixels)")


def resize_plane(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask of uint8 0/1 at (height, width): each pixel takes the value at its centre, so none becomes soft. A part
    that hangs together, over corners too, of which no centre holds any pixel keeps the pixels that it touches: a small
    defect is lost neither where it is alone nor beside others."""
    if plane.shape == (height, width):
        return plane
    resized = cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if height >= plane.shape[0] and width >= plane.shape[1]:  # each pixel holds a centre
        return resized
    num_parts, parts = cv2.connectedComponents(plane, connectivity=8)
    is_lost = np.ones(num_parts, np.uint8)
    is_lost[0] = 0  # the background
    is_lost[cv2.resize(parts, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)] = 0
    if is_lost.any():
        resized[resize_image(is_lost[parts].astype(np.float32), (height, width)) > 0] = 1
    return resized
