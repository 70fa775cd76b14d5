"""Which class is taken for which: of pixels and of images.

The first row and column stand for nothing (the background of pixels, no defect in images), then the classes follow.
Where classes overlap, a pixel or image with two of them is counted in both rows: a row can add up to more than its
number of pixels or images.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from steel.metrics.counts import valid_mask

MOST_ANSWERED = 8
"""Classes up to which `answers_confusion` is fed: there are 2**C sets of them."""


class PixelConfusion(NamedTuple):
    """Of one image."""

    confusion: np.ndarray
    """(1 + C, 1 + C) int64 valid pixels by [true, predicted] class."""
    background: np.ndarray
    """(3,) int64 `(intersection, predicted, true)` of the background: valid pixels that hold no class at all."""


def pixel_confusion(masks: np.ndarray, bitmask: np.ndarray, ignore_bit: int | None = None) -> PixelConfusion:
    """Count one image's pixels by true and predicted class.

    Args:
        masks: (C, H, W) bool, as predicted.
        bitmask: (H, W) uint8 or uint16, the truth.
        ignore_bit: the bit of pixels to leave out, if any.
    """
    num_classes = len(masks)
    valid = valid_mask(bitmask, ignore_bit)
    counted = None if valid is None else valid.view(np.uint8)
    marked = int(np.bitwise_or.reduce(bitmask, axis=None))
    # Most classes are absent from most images: only those that are there cost a pass. OpenCV counts and joins bytes
    # several times as fast as numpy.
    there = {k: _within((bitmask >> k & 1).astype(np.uint8), counted) for k in range(num_classes) if marked >> k & 1}
    said = {k: _within(mask.view(np.uint8), counted) for k, mask in enumerate(masks) if mask.any()}
    any_there, any_said = _union(there, bitmask.shape), _union(said, bitmask.shape)
    result = np.zeros((1 + num_classes, 1 + num_classes), np.int64)
    for j, answer in said.items():
        result[0, 1 + j] = cv2.countNonZero(answer) - _overlap(answer, any_there)
        for k, truth in there.items():
            result[1 + k, 1 + j] = _overlap(truth, answer)
    for k, truth in there.items():
        result[1 + k, 0] = cv2.countNonZero(truth) - _overlap(truth, any_said)
    num_valid = bitmask.size if counted is None else cv2.countNonZero(counted)
    num_there, num_said = cv2.countNonZero(any_there), cv2.countNonZero(any_said)
    result[0, 0] = num_valid - (num_there + num_said - _overlap(any_there, any_said))
    return PixelConfusion(result, np.array([result[0, 0], num_valid - num_said, num_valid - num_there], np.int64))


def answers_confusion(answers: np.ndarray, kept: np.ndarray) -> PixelConfusion:
    """What `pixel_confusion` counts, from counts that do not know yet which classes are kept.

    Args:
        answers: (C + 2, 2**C) valid pixels by [what is there: nothing, each class, anything at all; the set of classes
            that reach their thresholds, as a binary number].
        kept: (C,) bool, the classes whose pixels the decision keeps.
    """
    num_classes = len(kept)
    assert answers.shape == (num_classes + 2, 1 << num_classes), answers.shape
    sets = np.arange(1 << num_classes)[:, None] >> np.arange(num_classes) & 1 == 1
    said = sets & kept
    columns = np.concatenate([~said.any(axis=1, keepdims=True), said], axis=1).astype(np.int64)
    by_column = answers.astype(np.int64) @ columns
    confusion, num_unsaid = by_column[:-1], by_column[-1, 0]
    return PixelConfusion(confusion, np.array([confusion[0, 0], num_unsaid, answers[0].sum()], np.int64))


def image_confusion(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(1 + C, 1 + C) int64 images by [true, predicted] class.

    Args:
        true: (N, C) bool, whether the image has each class.
        predicted: (N, C) bool, whether it is said to.
    """
    rows, columns = (
        np.concatenate([~some.any(axis=1, keepdims=True), some], axis=1).astype(np.int64) for some in (true, predicted)
    )
    return rows.T @ columns


def _within(mask: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    return mask if counted is None else mask & counted


def _union(masks: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) uint8, 1 where any of the masks is."""
    return functools.reduce(np.bitwise_or, masks.values(), np.zeros(shape, np.uint8))


def _overlap(first: np.ndarray, second: np.ndarray) -> int:
    return cv2.countNonZero(cv2.bitwise_and(first, second))
