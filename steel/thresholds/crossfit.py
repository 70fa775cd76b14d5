"""Cross-fitting: a choice is judged on images that had no part in making it, and taken only if it gains beyond noise.

The richer of two nested families of settings is never worse than the simpler one on the images it was tuned on. So both
are tuned on all folds of the images but one and judged on that one, fold by fold; their difference on each image is
free of that flattery. Its sum over the images is as uncertain as a sum of independent terms; duplicates of one image,
and images that are known to belong together, are one term.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from steel.folds import assign_folds

NUM_FOLDS = 5


@dataclass(frozen=True, eq=False)
class CrossFolds:
    """How N images are dealt."""

    fold_of: np.ndarray
    """(N,) int64, 0 to num - 1."""
    unit_of: np.ndarray
    """(N,) int64: images of one unit are duplicates or belong together, and lie in one fold."""

    @property
    def num(self) -> int:
        """How many folds."""
        return int(self.fold_of.max()) + 1

    @property
    def num_units(self) -> int:
        """Terms that a mean over the images consists of."""
        return len(np.unique(self.unit_of))


def deal_folds(rows: np.ndarray, present: np.ndarray, groups: np.ndarray | None = None) -> CrossFolds:
    """Deal images to folds that each hold their share of every class.

    The same rows fall into the same folds in whatever order they come.

    Args:
        rows: (N,) different numbers, the images' names.
        present: (N, C) bool, whether an image has some pixel of each class.
        groups: (N,) as in `EvaluationStatistics`.
    """
    _, unit_of = np.unique(rows if groups is None else groups, return_inverse=True)
    num_folds = min(NUM_FOLDS, int(unit_of.max()) + 1)
    fold_of = assign_folds([str(row) for row in rows.tolist()], unit_of, present, num_folds, seed=0)
    return CrossFolds(fold_of.astype(np.int64), unit_of)


def half_width(confidence: float, num_units: int) -> float:
    """Of the interval of a mean, in standard errors: Student's t, as the spread of few units is itself uncertain.

    Args:
        confidence: share of such intervals that hold the true mean, at least 0 and below 1.
        num_units: terms of the mean; NaN for one alone.
    """
    return float(stdtrit(num_units - 1, (1 + confidence) / 2))


@dataclass(frozen=True)
class Gain:
    """How much better one answer is than another, and how sure that is."""

    value: float
    noise: float
    """Standard error of `value`; infinite when there is but one unit."""

    @classmethod
    def of(cls, differences: np.ndarray, unit_of: np.ndarray) -> "Gain":
        """Of (n,) differences on single images; see `paired_gain`."""
        value, noise = paired_gain(differences, unit_of)
        return cls(float(value), float(noise))

    def exceeds(self, noise_factor: float) -> bool:
        """Whether it is more than so many times its noise."""
        return self.value > noise_factor * self.noise

    def __str__(self) -> str:
        return f"{self.value:+.4f} ± {self.noise:.4f}"


def paired_gain(differences: np.ndarray, unit_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over images and its standard error.

    Args:
        differences: (n, ...) of single images; n may be 0.
        unit_of: (n,) as in `CrossFolds`.

    Returns:
        Two (...) float64: the mean and, from the spread of the sums over units, its standard error. Where units differ
        in size that is more than the error of the mean alone, as if their sizes were chance: one large unit among small
        ones shows nothing by itself.
    """
    per_unit = np.bincount(unit_of)
    num_units = np.count_nonzero(per_unit)
    sums = differences.astype(np.float64)
    if num_units < len(sums):
        sums = np.zeros((len(per_unit), *differences.shape[1:]))
        np.add.at(sums, unit_of, differences)
        sums = sums[per_unit > 0]
    mean = sums.sum(axis=0) / max(len(differences), 1)
    if num_units < 2:
        return mean, np.full_like(mean, np.inf)
    squares = ((sums - sums.mean(axis=0)) ** 2).sum(axis=0)
    return mean, np.sqrt(num_units / (num_units - 1) * squares) / len(differences)
