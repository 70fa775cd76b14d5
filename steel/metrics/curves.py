"""Curves over all thresholds, and how far probabilities can be believed, from counts alone.

Everything here starts from *level counts* (2, 256): how many things have each quantised probability, without and with
the label. For pixels they are the histograms of `steel.metrics.counts`, summed over images; for images they are made of
the head's probabilities by `level_counts`. A thing is called positive where its probability reaches the threshold.
"""

from dataclasses import dataclass

import numpy as np

from steel.metrics.counts import INSIDE, NUM_BINS, OUTSIDE

RELIABILITY_BINS = 10


def level_counts(probs: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(2, 256) int64 level counts of N things.

    Args:
        probs: (N,) uint8, quantised probabilities.
        true: (N,) bool, whether each has the label.
    """
    return np.stack([np.bincount(probs[true == label], minlength=NUM_BINS) for label in (False, True)])


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """What is found and what is falsely called positive from each threshold 0, ..., 256; nothing reaches the last."""

    found: np.ndarray
    """(257,) int64, true positives."""
    false: np.ndarray
    """(257,) int64, false positives."""

    @property
    def positives(self) -> int:
        """All that have the label."""
        return int(self.found[0])

    @property
    def negatives(self) -> int:
        """All that do not."""
        return int(self.false[0])

    @property
    def recall(self) -> np.ndarray:
        """(257,) float, also called true-positive rate; NaN without a positive."""
        return _over(self.found, self.positives)

    @property
    def false_positive_rate(self) -> np.ndarray:
        """(257,) float; NaN without a negative."""
        return _over(self.false, self.negatives)

    @property
    def precision(self) -> np.ndarray:
        """(257,) float; NaN where nothing is called positive."""
        said = self.found + self.false
        return np.divide(self.found, said, out=np.full(len(said), np.nan), where=said > 0)

    @property
    def average_precision(self) -> float:
        """Area under precision over recall, as the sum of steps (scikit-learn's); NaN without a positive."""
        gained = self.recall[:-1] - self.recall[1:]
        return float(np.sum(np.where(gained > 0, gained * self.precision[:-1], 0))) if self.positives else float("nan")

    @property
    def roc_area(self) -> float:
        """Area under recall over the false-positive rate, by trapezia; NaN unless there are both kinds."""
        if not self.positives or not self.negatives:
            return float("nan")
        return float(np.trapezoid(self.recall[::-1], self.false_positive_rate[::-1]))


def threshold_curve(levels: np.ndarray) -> ThresholdCurve:
    """The curve of level counts (2, 256)."""
    at_least = np.zeros((2, NUM_BINS + 1), np.int64)
    at_least[:, :-1] = np.cumsum(levels[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]
    return ThresholdCurve(at_least[INSIDE], at_least[OUTSIDE])


@dataclass(frozen=True, eq=False)
class Reliability:
    """Whether what is given a probability of p has the label in a share p of cases, in equal bins of probability."""

    counts: np.ndarray
    """(B,) int64, things in each bin."""
    predicted: np.ndarray
    """(B,) mean probability; NaN in an empty bin."""
    observed: np.ndarray
    """(B,) share that has the label; NaN in an empty bin."""

    @property
    def expected_calibration_error(self) -> float:
        """Mean of |predicted - observed|, bins weighted by their counts; NaN of nothing."""
        total = self.counts.sum()
        gaps = np.where(self.counts > 0, np.abs(self.predicted - self.observed), 0)
        return float((self.counts * gaps).sum() / total) if total else float("nan")


def reliability(levels: np.ndarray, bins: int = RELIABILITY_BINS) -> Reliability:
    """The reliability of level counts (2, 256)."""
    edges = np.arange(NUM_BINS) * bins // NUM_BINS
    both = levels.sum(axis=0)
    counts, inside, weighted = (
        np.bincount(edges, weights=values, minlength=bins)
        for values in (both, levels[INSIDE], both * np.arange(NUM_BINS))
    )
    some = counts > 0
    predicted, observed = (
        np.divide(part, counts, out=np.full(bins, np.nan), where=some) for part in (weighted / (NUM_BINS - 1), inside)
    )
    return Reliability(counts.astype(np.int64), predicted, observed)


def wilson_interval(hits: float, total: float, z: float = 1.959964) -> tuple[float, float] | None:
    """95 % interval of a share (Wilson, 1927), which holds for few cases and shares of 0 and 1, too; None of none."""
    if total == 0:
        return None
    share, spread = hits / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _over(part: np.ndarray, whole: int) -> np.ndarray:
    return part / whole if whole else np.full(len(part), np.nan)
