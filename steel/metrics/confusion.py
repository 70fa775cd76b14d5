"""Which class is taken for which: of pixels and of images.

The first row and column stand for nothing (the background of pixels, no defect in images), then the classes follow.
Where classes overlap, a pixel or image with two of them is counted in both rows: a row can add up to more than its
number of pixels or images.
"""

import numpy as np

from steel.metrics.counts import valid_mask


def pixel_confusion(masks: np.ndarray, bitmask: np.ndarray, ignore_bit: int | None = None) -> np.ndarray:
    """(1 + C, 1 + C) int64 valid pixels of one image by [true, predicted] class.

    Args:
        masks: (C, H, W) bool, as predicted.
        bitmask: (H, W) uint8 or uint16, the truth.
        ignore_bit: the bit of pixels to leave out, if any.
    """
    num_classes = len(masks)
    valid = valid_mask(bitmask, ignore_bit)
    said = [mask if valid is None else mask & valid for mask in masks]
    there = [(bitmask >> k) & 1 == 1 for k in range(num_classes)]
    there = there if valid is None else [mask & valid for mask in there]
    present = [k for k in range(num_classes) if there[k].any()]
    answered = [k for k in range(num_classes) if said[k].any()]
    result = np.zeros((1 + num_classes, 1 + num_classes), np.int64)
    num_valid = bitmask.size if valid is None else int(np.count_nonzero(valid))
    any_there, any_said = _union(there, present), _union(said, answered)
    for j in answered:
        for k in present:
            result[1 + k, 1 + j] = np.count_nonzero(there[k] & said[j])
        result[0, 1 + j] = _outside(said[j], any_there)
    for k in present:
        result[1 + k, 0] = _outside(there[k], any_said)
    somewhere = [mask for mask in (any_there, any_said) if mask is not None]
    either = somewhere[0] | somewhere[-1] if somewhere else None
    result[0, 0] = num_valid - (0 if either is None else np.count_nonzero(either))
    return result


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


def _union(masks: list[np.ndarray], which: list[int]) -> np.ndarray | None:
    return np.logical_or.reduce([masks[k] for k in which]) if which else None


def _outside(mask: np.ndarray, other: np.ndarray | None) -> int:
    return int(np.count_nonzero(mask if other is None else mask & ~other))
