"""Scores against the size of defects: small ones are what is missed first.

A defect here is what an image holds of one class, all its pixels together: (image, class) pairs are sorted by that area
into octaves, [2^k, 2^(k+1)) pixels.
"""

from dataclasses import dataclass

import numpy as np

from steel.metrics.counts import INTERSECTION, PREDICTED, TRUE, dice


@dataclass(frozen=True)
class SizeBin:
    """The pairs whose true area lies in one octave."""

    min_area: int
    """Pixels, of this many on ..."""
    end_area: int
    """... and fewer than this."""
    defects: int
    found: int
    """Those with at least one predicted pixel that is right."""
    dice: float
    """Mean over the defects."""
    pixel_recall: float
    """Share of all their pixels that is predicted."""


def scores_by_size(counts: np.ndarray) -> list[SizeBin]:
    """One bin for each octave from the smallest to the largest defect, empty ones in between left out.

    Args:
        counts: (..., 3) `(intersection, predicted, true)` pixels of (image, class) pairs.
    """
    pairs = counts.reshape(-1, 3)
    pairs = pairs[pairs[:, TRUE] > 0]
    octaves = area_octave(pairs[:, TRUE])
    bins = []
    for octave in np.unique(octaves).tolist():
        inside = pairs[octaves == octave]
        bins.append(
            SizeBin(
                min_area=2**octave,
                end_area=2 ** (octave + 1),
                defects=len(inside),
                found=int(np.count_nonzero(inside[:, INTERSECTION])),
                dice=float(dice(inside).mean()),
                pixel_recall=float(inside[:, INTERSECTION].sum() / inside[:, TRUE].sum()),
            )
        )
    return bins


def area_table(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True against predicted area, by octaves.

    Args:
        counts: (..., 3) pixels of (image, class) pairs.

    Returns:
        The octaves (k,) ascending without a gap, where -1 stands for no pixel at all, and (k, k) int64 pairs by [true,
        predicted] octave; pairs that are empty on both sides are left out.
    """
    pairs = counts.reshape(-1, 3)
    pairs = pairs[(pairs[:, TRUE] > 0) | (pairs[:, PREDICTED] > 0)]
    true, predicted = area_octave(pairs[:, TRUE]), area_octave(pairs[:, PREDICTED])
    if not len(pairs):
        return np.array([-1]), np.zeros((1, 1), np.int64)
    some = np.concatenate([true, predicted])
    some = some[some >= 0]
    octaves = np.concatenate([[-1], np.arange(some.min(), some.max() + 1)])
    table = np.zeros((len(octaves), len(octaves)), np.int64)
    np.add.at(table, (_place(true, octaves), _place(predicted, octaves)), 1)
    return octaves, table


def area_octave(areas: np.ndarray) -> np.ndarray:
    """The k of [2^k, 2^(k+1)) for each whole number of pixels; -1 for none."""
    return np.frexp(areas.astype(np.float64))[1] - 1


def _place(values: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    return np.searchsorted(octaves, values)
