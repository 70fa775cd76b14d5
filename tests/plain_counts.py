"""Counts of pixels from the masks themselves, the plain way."""

import numpy as np

from steel.metrics.counts import valid_mask


def pair_counts(masks: np.ndarray, bitmask: np.ndarray, ignore_bit: int | None = None) -> np.ndarray:
    """(C, 3) int64 `(intersection, predicted, true)` of answered masks (C, H, W) bool against a bitmask (H, W)."""
    valid = valid_mask(bitmask, ignore_bit)
    result = np.zeros((len(masks), 3), np.int64)
    for k, mask in enumerate(masks):
        true = (bitmask >> k) & 1 == 1
        predicted = mask.astype(bool)
        if valid is not None:
            true, predicted = true & valid, predicted & valid
        result[k] = np.count_nonzero(true & predicted), np.count_nonzero(predicted), np.count_nonzero(true)
    return result
