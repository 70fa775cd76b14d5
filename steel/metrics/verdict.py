"""Is a result any good: better than answering nothing, over all classes and for each of them?

Where most images lack a class, mean Dice is high for a model that finds nothing of it, or nothing at all. So every
score is held against that of answering nothing on the same images, resampled alike (paired).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steel.errors import counted
from steel.metrics.bootstrap import FEWEST_IMAGES, Interval, interval, resampled_sums
from steel.metrics.counts import PREDICTED
from steel.metrics.scores import Outcome, ScoreSums, score_sums


@dataclass(frozen=True)
class ClassVerdict:
    """One class against never answering it."""

    present: int
    """Images that have it."""
    answered: int
    """Images in which some of its pixels are predicted."""
    gain: float
    """Of its Dice."""
    interval: Interval
    """95 % of the gain, by resampling images or groups of them."""

    @property
    def is_never_answered(self) -> bool:
        """Whether there was something to find, and no pixel of it is ever predicted."""
        return self.present > 0 and self.answered == 0

    @property
    def is_worse_than_nothing(self) -> bool:
        """Whether never predicting the class would score higher."""
        return self.gain < 0


@dataclass(frozen=True)
class Verdict:
    """A result against answering nothing."""

    basis: str
    """What the judged images were to the decision: `held out`, `cross-fitted`, ..."""
    images: int
    mean_dice: float
    floor: float
    """Mean Dice of answering nothing."""
    interval: Interval
    """95 % of the difference, by resampling images or groups of them."""
    classes: Mapping[str, ClassVerdict]
    groups: int | None = None
    """Of the images, where some are duplicates or belong together."""

    @property
    def gain(self) -> float:
        """Of mean Dice over answering nothing."""
        return self.mean_dice - self.floor

    @property
    def is_better_than_nothing(self) -> bool:
        """Beyond the interval."""
        return self.interval[0] > 0

    @property
    def never_answered(self) -> tuple[str, ...]:
        """Classes that images have and no answer holds."""
        return tuple(name for name, found in self.classes.items() if found.is_never_answered)

    @property
    def worse_than_nothing(self) -> tuple[str, ...]:
        """Classes that would score more if they were never answered."""
        return tuple(name for name, found in self.classes.items() if found.is_worse_than_nothing)

    @property
    def warning(self) -> str:
        """What is wrong, in a few words; empty when nothing is."""
        parts = [] if self.is_better_than_nothing else [self._overall()]
        if self.never_answered:
            parts.append(f"never answered: {', '.join(self.never_answered)}")
        if self.worse_than_nothing:
            parts.append(f"worse than never answered: {', '.join(self.worse_than_nothing)}")
        return "; ".join(parts)

    @property
    def sentence(self) -> str:
        """All of it in one line, what is wrong first."""
        overall = (
            f"{self._overall()}: mean Dice {self.mean_dice:.4f} against {self.floor:.4f}, "
            f"{_difference(self.gain, self.interval)} on {counted(self.images, 'image')}{self._in_groups()} "
            f"({self.basis})"
        )
        classes = [
            f"{name} is never answered, though {_images(found.present)} it"
            for name, found in self.classes.items()
            if found.is_never_answered
        ]
        classes += [
            f"{name} scores less than if it were never answered, {_difference(found.gain, found.interval)}"
            for name, found in self.classes.items()
            if found.is_worse_than_nothing
        ]
        parts = [overall, *classes]
        if self.is_better_than_nothing and classes:
            parts = [*classes, f"over all classes {overall}"]
        return ("WARNING: " if self.warning else "") + "; ".join(parts)

    def _overall(self) -> str:
        if self.is_better_than_nothing:
            return "better than answering nothing"
        if not any(found.present for found in self.classes.values()):
            return "no image here has a defect, so that nothing can be better than answering nothing"
        if self.gain > 0 and (self.groups or self.images) < FEWEST_IMAGES:
            pieces = counted(self.images, "image") + self._in_groups() + (" is" if self.images == 1 else " are")
            return f"{pieces} too few to show that it is better than answering nothing"
        return ("not shown to be" if self.gain > 0 else "no") + " better than answering nothing"

    def _in_groups(self) -> str:
        return "" if self.groups is None else f" in {counted(self.groups, 'group')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "sentence": self.sentence,
            "warning": self.warning or None,
            "basis": self.basis,
            "better_than_nothing": self.is_better_than_nothing,
            "gain": self.gain,
            "gain_interval": list(self.interval),
            "gain_per_class": {name: found.gain for name, found in self.classes.items()},
            "gain_interval_per_class": {name: list(found.interval) for name, found in self.classes.items()},
            "never_answered": list(self.never_answered),
            "worse_than_nothing": list(self.worse_than_nothing),
        }


def reach_verdict(outcome: Outcome, class_names: Sequence[str], basis: str, *, seed: int = 0) -> Verdict:
    """The verdict on some answers.

    Args:
        outcome: of at least one image.
        class_names: C names.
        basis: see `Verdict.basis`.
        seed: of the bootstrap intervals.
    """
    of_images = score_sums(outcome)
    sums = of_images.total()
    gains, resampled = _gains(sums), _gains(resampled_sums(of_images, outcome.groups, seed=seed))
    answered = np.count_nonzero(outcome.counts[..., PREDICTED], axis=0)
    return Verdict(
        basis=basis,
        images=len(outcome.rows),
        mean_dice=float(sums.dice.mean() / sums.images),
        floor=float((sums.images - sums.positives).mean() / sums.images),
        interval=_span(resampled.mean(axis=1)),
        classes={
            name: ClassVerdict(int(sums.positives[k]), int(answered[k]), float(gains[k]), _span(resampled[:, k]))
            for k, name in enumerate(class_names)
        },
        groups=None if outcome.num_groups == len(outcome.rows) else outcome.num_groups,
    )


def _gains(sums: ScoreSums) -> np.ndarray:
    """(..., C) Dice of each class over that of never answering it, which is 1 where the class is absent and 0 else."""
    images = sums.images[..., None]
    with np.errstate(invalid="ignore"):  # of no images
        return (sums.dice - (images - sums.positives)) / images


def _span(values: np.ndarray) -> Interval:
    """All that a gain can be where too few groups of images tell nothing."""
    return interval(values) or (-1.0, 1.0)


def _difference(gain: float, span: Interval) -> str:
    return f"{gain:+.4f} (95 %: {span[0]:+.4f} to {span[1]:+.4f})"


def _images(number: int) -> str:
    return "1 image has" if number == 1 else f"{number:,} images have"
