"""Integer counts of pixels and the scores that follow from them. A leaf: numpy and OpenCV, no other part of `steel`.

Two kinds of counts, both additive over images, so that ranks can add them up in any way and agree bit for bit:

- a *histogram* says how many pixels have each of the 256 quantised probabilities, outside and inside the truth;
  the answer at every threshold can be read off it without the image;
- *pair counts* `(intersection, predicted, true)` in pixels, for one image and one class (or for the background).

Ignored pixels (the bitmask's ignore bit) are in neither. All areas are in pixels of the arrays handed in, which callers
keep at the image's original size.
"""

import cv2
import numpy as np

NUM_BINS = 256
"""Probabilities are quantised once to `round(255 * p)`."""
OUTSIDE, INSIDE = 0, 1
"""Positions on a histogram's second axis: pixels without and with the class."""
INTERSECTION, PREDICTED, TRUE = 0, 1, 2
"""Positions on the last axis of pair counts."""

_EXACT_PIXELS = 2**24
"""OpenCV returns histograms as float32, whose integers are exact up to here."""
_IN_EACH_BYTE = np.uint64(0x0101010101010101)


def valid_mask(bitmask: np.ndarray, ignore_bit: int | None) -> np.ndarray | None:
    """(H, W) bool, False where the pixel is ignored; None when the data set has no ignored pixels."""
    return None if ignore_bit is None else (bitmask >> ignore_bit) & 1 == 0


def histograms(
    mask_probs: np.ndarray, bitmask: np.ndarray, num_classes: int, ignore_bit: int | None = None
) -> np.ndarray:
    """Counts of quantised probabilities outside and inside the truth, for each class of one image.

    Args:
        mask_probs: (C, H, W) uint8, `round(255 * p)`.
        bitmask: (H, W) uint8 or uint16; bit k is set where class k + 1 is.
        num_classes: C.
        ignore_bit: the bit that marks pixels to leave out; None when there are none.

    Returns:
        (C, 2, 256) int64: number of valid pixels by [class, outside / inside, probability].
    """
    assert mask_probs.dtype == np.uint8, mask_probs.dtype
    assert mask_probs.shape == (num_classes, *bitmask.shape), (mask_probs.shape, num_classes, bitmask.shape)
    valid = valid_mask(bitmask, ignore_bit)
    counted = None if valid is None or valid.all() else valid.view(np.uint8)
    result = np.zeros((num_classes, 2, NUM_BINS), np.int64)
    marked = int(np.bitwise_or.reduce(bitmask, axis=None))
    for k, probs in enumerate(mask_probs):
        # Most classes are absent from most images: one pass over the image is then enough.
        if marked >> k & 1:
            inside = ((bitmask >> k) & 1).astype(np.uint8)
            result[k, INSIDE] = _histogram(probs, inside if counted is None else inside & counted)
        result[k, OUTSIDE] = _histogram(probs, counted) - result[k, INSIDE]
    return result


def _histogram(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """(256,) int64 counts of (H, W) uint8 values where `mask` (uint8) is not 0.

    Eight neighbours at a time are looked at first: those that all have the commonest value, or lie outside of the mask,
    need no counting one by one, and on steel they are most.
    """
    flat = np.ascontiguousarray(values).ravel()
    whole = flat.size // 8 * 8
    words, total = flat[:whole].view(np.uint64), np.zeros(NUM_BINS, np.int64)
    if mask is None:
        commonest = int(np.bincount(flat[::61], minlength=NUM_BINS).argmax())  # of a few; any value would be right
        counted = words != np.uint64(commonest) * _IN_EACH_BYTE
        marks = None
        total[commonest] = whole - 8 * np.count_nonzero(counted)
    else:
        marks = np.ascontiguousarray(mask).ravel()
        counted = marks[:whole].view(np.uint64) != 0
    total += _count(words[counted].view(np.uint8), _bytes_of(marks, whole, counted))
    return total + _count(flat[whole:], None if marks is None else marks[whole:])


def _bytes_of(marks: np.ndarray | None, whole: int, counted: np.ndarray) -> np.ndarray | None:
    return None if marks is None else marks[:whole].view(np.uint64)[counted].view(np.uint8)


def _count(values: np.ndarray, marks: np.ndarray | None) -> np.ndarray:
    """(256,) int64 counts of (n,) uint8 values where `marks` is not 0; OpenCV is three times as fast as np.bincount."""
    total = np.zeros(NUM_BINS, np.int64)
    for start in range(0, len(values), _EXACT_PIXELS):
        part = slice(start, start + _EXACT_PIXELS)
        chosen = None if marks is None else marks[None, part]
        counts = cv2.calcHist([values[None, part]], [0], chosen, [NUM_BINS], [0, NUM_BINS])
        total += counts.ravel().astype(np.int64)  # (256, 1) before OpenCV 5, (256,) from there on
    return total


def counts_from(histograms: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Pair counts of "predicted where the probability is at least the threshold", read off histograms.

    Args:
        histograms: (..., C, 2, 256) integer counts.
        thresholds: (C,) integers of 0 to 256.

    Returns:
        (..., C, 3) int64 `(intersection, predicted, true)`.
    """
    result = np.empty((*histograms.shape[:-2], 3), np.int64)
    for k, threshold in enumerate(thresholds):
        above = histograms[..., k, :, int(threshold) :].sum(axis=-1, dtype=np.int64)
        result[..., k, INTERSECTION] = above[..., INSIDE]
        result[..., k, PREDICTED] = above.sum(axis=-1)
        result[..., k, TRUE] = histograms[..., k, INSIDE, :].sum(axis=-1, dtype=np.int64)
    return result


def dice(counts: np.ndarray) -> np.ndarray:
    """Kaggle's Dice of pair counts (..., 3): `2 * intersection / (predicted + true)`, 1 when both are empty."""
    both = counts[..., PREDICTED] + counts[..., TRUE]
    return np.where(both == 0, 1.0, 2.0 * counts[..., INTERSECTION] / np.maximum(both, 1))


def cross_entropy(histograms: np.ndarray) -> float | None:
    """Mean binary cross-entropy over all valid pixels and classes, in nats.

    With the counts summed over images and classes, `p_v = v / 255` and half a quantum of clipping, since a quantised 0
    means "below 0.5 / 255":

        p_v = clip(v / 255, 0.5 / 255, 1 - 0.5 / 255)
        sum_v(inside[v] * -log(p_v) + outside[v] * -log(1 - p_v)) / sum_v(inside[v] + outside[v])

    Only the last step is in floating point, so the result does not depend on how images were dealt to ranks.

    Args:
        histograms: (..., 2, 256) integer counts.

    Returns:
        None without any pixel.
    """
    totals = histograms.reshape(-1, 2, NUM_BINS).sum(axis=0, dtype=np.int64)
    num_values = int(totals.sum())
    if num_values == 0:
        return None
    probs = np.clip(np.arange(NUM_BINS) / 255, 0.5 / 255, 1 - 0.5 / 255)
    nats = totals[INSIDE] * -np.log(probs) + totals[OUTSIDE] * -np.log1p(-probs)
    return float(nats.sum() / num_values)
