"""Names and scores of regions, to be drawn beside them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from steel.images.tags import Tag
from steel.labels.polygon import Part, find_parts

MOST_MARKS = 50
"""Regions that are named in a page that can be enlarged, the largest first; a picture names fewer."""


class Mark(NamedTuple):
    """A region that is named."""

    left: int
    top: int
    class_id: int
    """From 1."""
    mean_prob: float | None
    """Of the class, over the region's pixels; None of a true one."""


def mean_prob_of(part: Part, probs: np.ndarray) -> float:
    """The mean over a region's pixels of the probabilities (H, W) uint8 of its class, in 0..1."""
    height, width = part.inside.shape
    return float(probs[part.top : part.top + height, part.left : part.left + width][part.inside].mean()) / 255


def mark_regions(masks: np.ndarray, mask_probs: np.ndarray | None = None) -> list[Mark]:
    """The largest regions, those first.

    Args:
        masks: (C, H, W) bool.
        mask_probs: (C, H, W) uint8, 255 for certainty; None of the truth.
    """
    found: list[tuple[int, Mark]] = []
    for class_id, mask in enumerate(masks, start=1):
        for part in find_parts(mask.view(np.uint8)) if mask.any() else ():
            mean_prob = None if mask_probs is None else mean_prob_of(part, mask_probs[class_id - 1])
            found.append((part.area, Mark(part.left, part.top, class_id, mean_prob)))
    return [mark for _, mark in sorted(found, key=lambda one: -one[0])[:MOST_MARKS]]


def tags_of(marks: Sequence[Mark], class_names: Sequence[str], scale: float = 1.0) -> list[Tag]:
    """What is written beside the regions, in a picture that is `scale` times as large as their image."""
    return [Tag(mark.left, mark.top, _words(mark, class_names), mark.class_id).scaled(scale) for mark in marks]


def _words(mark: Mark, class_names: Sequence[str]) -> str:
    name = class_names[mark.class_id - 1]
    return name if mark.mean_prob is None else f"{name} {mark.mean_prob:.2f}"
