"""How fast a run goes, and when it will be over, its validations and the choice of its model included."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from train.engine.batch_plan import PhasePlan

RECENT = 50
"""Steps that the pace is taken from."""
FORWARD_SHARE = 1 / 3
"""What a pass without gradients costs of a training step's: a guess, until a validation has been timed."""


class TimedStep(NamedTuple):
    """A step that is over."""

    images: int
    seconds: float
    data_wait: float
    """Seconds of it in which the step waited for its samples."""
    losses: dict[str, float]
    """Of each head; empty for a skipped step."""


@dataclass(frozen=True)
class Work:
    """What a run has to do, in pixels, which its time is taken to be proportional to until it has been measured."""

    plans: Sequence[PhasePlan]
    step_pixels: Sequence[int]
    """Of a step of each phase."""
    validation_pixels: int
    """Of one validation."""
    final_validations: int
    """How many weights are scored at the end."""
    final_views: int
    """How many views of each image are averaged there."""


@dataclass(frozen=True)
class TimeLeft:
    """Seconds to the end of a run."""

    training: float
    validations: float
    selection: float
    """The choice of the model that is shipped."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.training + self.validations + self.selection


class Pace:
    """Recent steps and validations, and what follows from them."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.recent: deque[TimedStep] = deque(maxlen=RECENT)
        """Of the current phase; its first step, which waits for workers and compilers, until there is another."""
        self._is_first = True
        self._pixel_seconds: float | None = None
        """Of the last phase with a finished step."""
        self._validation: tuple[float, float] | None = None
        """Seconds of the last one: predicting, and tuning thresholds."""

    def start_phase(self) -> None:
        """What was measured of another phase's steps no longer counts."""
        self.recent.clear()
        self._is_first = True

    def count_step(self, phase: int, step: TimedStep) -> None:
        """Take in a step of a phase."""
        if self._is_first and self.recent:
            self.recent.clear()
            self._is_first = False
        self.recent.append(step)
        self._pixel_seconds = self.step_seconds() / max(1, self.work.step_pixels[phase])

    def count_validation(self, predicting: float, tuning: float) -> None:
        """Take in the seconds of a validation's two parts."""
        self._validation = predicting, tuning

    def step_seconds(self) -> float:
        """Of a recent step."""
        return sum(step.seconds for step in self.recent) / len(self.recent)

    def images_per_second(self) -> float | None:
        """Of recent steps; None where no time has passed."""
        seconds = sum(step.seconds for step in self.recent)
        return sum(step.images for step in self.recent) / seconds if seconds > 0 else None

    def data_wait(self) -> float | None:
        """The share of recent steps' time in which they waited for samples."""
        seconds = sum(step.seconds for step in self.recent)
        return min(1.0, sum(step.data_wait for step in self.recent) / seconds) if seconds > 0 else None

    def losses(self) -> dict[str, float]:
        """Mean loss of each head over recent steps that were taken; empty when none was."""
        taken = [step.losses for step in self.recent if step.losses]
        return {head: sum(losses[head] for losses in taken) / len(taken) for head in taken[0]} if taken else {}

    def time_left(self, phase: int, step: int) -> TimeLeft | None:
        """From the place where `step` steps of `phase` are done, its validation too; None before any has been timed."""
        if self._pixel_seconds is None:
            return None
        work, speed = self.work, self._pixel_seconds
        now, *later = work.plans[phase:]
        own = self.step_seconds() if self.recent else speed * work.step_pixels[phase]
        training = (now.steps - step) * own + sum(p.steps * speed * work.step_pixels[p.number] for p in later)
        predicting, tuning = self._validation or (work.validation_pixels * speed * FORWARD_SHARE, 0.0)
        to_come = now.validations_after(step) + sum(plan.validations_after(0) for plan in later)
        return TimeLeft(
            training=training,
            validations=to_come * (predicting + tuning),
            selection=work.final_validations * (predicting * work.final_views + tuning),
        )
