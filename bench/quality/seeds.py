"""Figures over several seeds: means and intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from steel.metrics.bootstrap import NUM_RESAMPLES, Interval, interval, resampled_sums
from steel.metrics.scores import Outcome, Scores, ratios, score, score_sums

Measure = Callable[[Scores], np.ndarray]


def miou(scores: Scores) -> np.ndarray:
    """Mean over the classes of the IoU of all pixels of the judged images."""
    return scores.miou


def mean_dice(scores: Scores) -> np.ndarray:
    """Kaggle's mean over image-class pairs."""
    return scores.mean_dice


def mean_dice_positive(scores: Scores) -> np.ndarray:
    """The same over the pairs that truly have the class."""
    return scores.mean_dice_positive


@dataclass(frozen=True)
class Gain:
    """How much better one side is than another on the same images, one outcome per seed on each side."""

    mean: float
    of_seeds: tuple[float, ...]
    seeds_interval: Interval | None
    """None for a single seed. 95 % by Student's t over the seeds: would other seeds agree?"""
    images_interval: Interval | None
    """95 % by resampling the images, alike for all seeds and both sides: would other images agree? None where there are
    too few, or too few groups of such as belong together, to tell."""

    def text(self, scale: float = 100) -> str:
        """Three cells of a table: the mean and both intervals, times `scale`."""
        return " | ".join(self._parts(scale))

    def in_one_cell(self, scale: float = 100) -> str:
        """The same, where a table compares several measures."""
        mean, over_seeds, over_images = self._parts(scale)
        return f"{mean} ({over_seeds}; {over_images})"

    def _parts(self, scale: float) -> list[str]:
        spans = [
            missing if span is None else f"{scale * span[0]:+.2f} to {scale * span[1]:+.2f}"
            for span, missing in ((self.seeds_interval, "one seed"), (self.images_interval, "too few groups"))
        ]
        return [f"{scale * self.mean:+.2f}", *spans]


def values(outcomes: Sequence[Outcome], measure: Measure) -> tuple[float, ...]:
    """The measure of each outcome."""
    return tuple(float(measure(score(outcome))) for outcome in outcomes)


def gain(ours: Sequence[Outcome], theirs: Sequence[Outcome], measure: Measure) -> Gain:
    """Compare seed by seed; the two sides' first outcomes are of one seed, and so on."""
    of_seeds = np.subtract(values(ours, measure), values(theirs, measure))
    resampled = np.mean([_resampled(a, measure) - _resampled(b, measure) for a, b in zip(ours, theirs, strict=True)], 0)
    return Gain(float(of_seeds.mean()), tuple(of_seeds.tolist()), _student(of_seeds), interval(resampled))


def _resampled(outcome: Outcome, measure: Measure) -> np.ndarray:
    return measure(ratios(resampled_sums(score_sums(outcome), outcome.groups, num_resamples=NUM_RESAMPLES, seed=0)))


def _student(differences: np.ndarray) -> Interval | None:
    if len(differences) < 2:
        return None
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return float(differences.mean() - half), float(differences.mean() + half)


def spread(numbers: Sequence[float], scale: float = 100) -> str:
    """Mean of the seeds, and each of them."""
    return f"{scale * np.mean(numbers):.2f} ({', '.join(f'{scale * n:.2f}' for n in numbers)})"
