"""Integer counts of pixels and the scores that follow from them. A leaf: numpy and Pillow, no other part of `steel`.

Two kinds of counts, both additive over images, so that ranks can add them up in any way and agree bit for bit:

- a *histogram* says how many pixels have each of the 256 quantised probabilities, outside and inside the truth;
  the answer at every threshold can be read off it without the image;
- *pair counts* `(intersection, predicted, true)` in pixels, for one image and one class (or for the background).

Ignored pixels (the bitmask's ignore bit) are in neither. All areas are in pixels of the arrays handed in, which callers
keep at the image's original size.
"""

from functools import reduce

import numpy as np
from PIL import Image

NUM_BINS = 256
"""Probabilities are quantised once to `round(255 * p)`."""
OUTSIDE, INSIDE = 0, 1
"""Positions on a histogram's second axis: pixels without and with the class."""
INTERSECTION, PREDICTED, TRUE = 0, 1, 2
"""Positions on the last axis of pair counts."""

_MANY = 1 << 14
"""Values that Pillow counts sooner than numpy, which has less to do beforehand."""
_SAMPLE = 32
"""Eights of an image that tell whether most are alike."""


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
    padding = -bitmask.size % 8
    bits, *planes = (_in_eights(values, padding) for values in (bitmask, *mask_probs))
    result = np.zeros((num_classes, 2, NUM_BINS), np.int64)
    result[:, OUTSIDE] = [_count_eights(plane) for plane in planes]
    result[:, OUTSIDE, 0] -= padding
    # Most images have no class and nothing ignored, and in others most places: only the rest is looked at once more.
    marked = reduce(np.bitwise_or, bits.view(np.uint64).T) != 0
    bits = bits.compress(marked, axis=0).ravel()
    present, ignored = int(np.bitwise_or.reduce(bits)), 0 if ignore_bit is None else 1 << ignore_bit
    for k, plane in enumerate(planes):
        if present & (1 << k | ignored):
            values = plane.compress(marked, axis=0).ravel()
            result[k, INSIDE] = _count(values.compress(bits & (1 << k | ignored) == 1 << k))
            result[k, OUTSIDE] -= result[k, INSIDE] + _count(values.compress(bits & ignored != 0))
    return result


def _in_eights(values: np.ndarray, padding: int) -> np.ndarray:
    """(n, 8): neighbours of (H, W), and zeros behind the last ones."""
    flat = values.ravel()
    return (np.pad(flat, (0, padding)) if padding else flat).reshape(-1, 8)


def _count_eights(eights: np.ndarray) -> np.ndarray:
    """(256,) int64 counts of (n, 8) uint8 values.

    Most are the same eight values on steel, and need no counting one by one; where they are not, as of a network that
    is unsure of every pixel, it is not worth looking for them.
    """
    words = eights.view(np.uint64).ravel()
    sample = np.sort(words[:: max(1, len(words) // _SAMPLE)])
    middle = len(sample) // 2
    usual = sample[middle : middle + 1]  # the one that is more than half of them, if there is such a one
    if 2 * np.count_nonzero(sample == usual) <= len(sample):
        return _count(eights.ravel())
    others = words.compress(words != usual)
    return _count(others.view(np.uint8)) + (len(words) - len(others)) * _count(usual.view(np.uint8))


def _count(values: np.ndarray) -> np.ndarray:
    """(256,) int64 counts of (n,) uint8 values.

    Many are given to Pillow as pixels of four colours, each of which it counts in a table of its own. In one table, as
    of `cv2.calcHist`, values wait for their neighbours, which are about as large: that takes twice as long.
    """
    if len(values) < _MANY:
        return np.bincount(values, minlength=NUM_BINS)
    whole = len(values) // 4 * 4
    pixels = Image.frombuffer("RGBX", (whole // 4, 1), values[:whole], "raw", "RGBX", 0, 1)
    total = np.fromiter(pixels.histogram(), np.int64, 4 * NUM_BINS).reshape(4, NUM_BINS).sum(axis=0)
    return total + _count(values[whole:]) if len(values) % 4 else total


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
