"""How bright the images of each fold are, from what each image adds to the mean of all."""

import math
from statistics import fmean

import numpy as np

from steel.shards.format import FoldLevels


def image_levels(sums: np.ndarray, num_pixels: np.ndarray) -> np.ndarray:
    """The mean gray level of each image over its pixels and channels, in 0..1: (N,) float64.

    Args:
        sums: (N, 3) int64, of `PixelSums`.
        num_pixels: (N,) int64.
    """
    return sums.sum(axis=1) / (3 * 255 * num_pixels)


def fold_levels(levels: np.ndarray, folds: np.ndarray, num_folds: int) -> tuple[FoldLevels, ...]:
    """What the manifest says of the levels of each fold; to the last bit the same in whatever order images come.

    Args:
        levels: (N,) float64, of `image_levels`.
        folds: (N,) whole numbers below `num_folds`, the fold of each image.
        num_folds: how many there are, those without images included.
    """
    ends = np.cumsum(np.bincount(folds, minlength=num_folds))
    return tuple(_levels_of(part) for part in np.split(levels[np.argsort(folds)], ends[:-1]))


def _levels_of(levels: np.ndarray) -> FoldLevels:
    if not len(levels):
        return FoldLevels(0, 0.0, 0.0)
    mean = fmean(levels.tolist())  # of an exact sum, which no order changes
    return FoldLevels(len(levels), mean, math.sqrt(fmean(((levels - mean) ** 2).tolist())))
