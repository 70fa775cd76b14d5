"""Where a run stands, apart from its tensors: a small explicit record that travels inside every resumable state."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from steel.errors import InputError
from train.engine.compilation import CompileChoice
from train.engine.step_metrics import FinishedStep

OVERFLOW_PATIENCE = 30
"""So many fp16 overflows in a row take the largest scale, 2**16, far below 1: a further one is no matter of scale."""


@dataclass
class Window:
    """Training steps since the last record of the history."""

    steps: int = 0
    """Those that were not skipped."""
    losses: dict[str, float] = field(default_factory=dict)
    """Of each head of the network; sums over these."""
    lr: float = 0.0
    """Of the last step, skipped or not."""

    def __post_init__(self) -> None:
        _check_counts(self)


@dataclass
class LoopState:
    """Everything a resumed run needs to know beside tensors and the best weights. The loop changes it, nobody else."""

    phase: int = 0
    step: int = 0
    """Steps of the phase that are done; the next step's number."""
    validation_due: bool = False
    """The validation that follows these steps has not been made yet."""
    phase_best: float | None = None
    """Best validation score of the current phase; None before its first validation."""
    stale: int = 0
    """Validations in a row without a better score in the current phase."""
    nonfinite_steps: int = 0
    """Steps skipped for a non-finite loss or gradient."""
    nonfinite_streak: int = 0
    """Such steps in a row."""
    scaler_overflows: int = 0
    """Steps that the fp16 loss scaler skipped; normal while it looks for its scale."""
    overflow_streak: int = 0
    """Such steps in a row."""
    bad_samples: int = 0
    """Samples replaced because their bytes did not match their checksum."""
    stopped_early: list[str] = field(default_factory=list)
    """One sentence for each phase that ended early."""
    missed: list[float | None] = field(default_factory=list)
    """How badly the last validation answered clean images and each class; see `ValidationResult.missed`. Empty before
    the first."""
    missed_before: list[float | None] = field(default_factory=list)
    """The same of the last validation before the current phase: part of what its samples depend on."""
    compilations: list[CompileChoice] = field(default_factory=list)
    """Whether the micro-batches of each phase that has begun are compiled."""
    window: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        _check_counts(self)
        for name in ("missed", "missed_before"):
            for share in getattr(self, name):
                if share is not None and not 0 <= share <= 1:
                    raise InputError(f"{name}: {share} is not in [0, 1]")

    def start_phase(self, number: int) -> None:
        """Move to the beginning of phase `number`."""
        self.phase, self.step, self.stale, self.phase_best = number, 0, 0, None
        self.missed_before = self.missed
        self.window = Window()

    @property
    def compilation(self) -> CompileChoice | None:
        """Of the current phase; None before its first step."""
        return self.compilations[self.phase] if self.phase < len(self.compilations) else None

    @compilation.setter
    def compilation(self, choice: CompileChoice) -> None:
        # An earlier phase has none where a signal came before it was chosen.
        known = self.compilations[: self.phase]
        self.compilations = [*known, *[CompileChoice(False)] * (self.phase - len(known)), choice]

    def count_step(self, done: FinishedStep) -> bool:
        """Take in a finished step; whether it was skipped for what is not finite, rather than by the fp16 scaler."""
        self.bad_samples += done.bad_samples
        self.window.lr = done.lr
        for head, loss in done.losses.items():
            self.window.losses[head] = self.window.losses.get(head, 0.0) + (0.0 if done.skipped else loss)
        if not done.skipped:
            self.nonfinite_streak = self.overflow_streak = 0
            self.window.steps += 1
            return False
        if done.is_overflow and self.overflow_streak < OVERFLOW_PATIENCE:
            self.scaler_overflows += 1
            self.overflow_streak += 1
            return False
        self.nonfinite_steps += 1
        self.nonfinite_streak += 1
        return True

    def count_validation(self, score: float, missed: list[float | None]) -> bool:
        """Take in the validation that was due, its score and what it missed; whether it is the phase's best so far."""
        self.validation_due, self.missed = False, missed
        is_best = self.phase_best is None or score > self.phase_best
        self.phase_best, self.stale = (score, 0) if is_best else (self.phase_best, self.stale + 1)
        return is_best

    def count_failed_validation(self) -> None:
        """Take in the validation that was due, of weights that say nothing; it has brought no better score."""
        self.validation_due, self.stale = False, self.stale + 1

    def check_within(self, steps: Sequence[int], where: str) -> None:
        """Raises InputError unless this is a place in a run at `where` whose phases have so many `steps`."""
        if self.phase >= len(steps) or self.step > steps[self.phase]:
            place = f"phase {self.phase}, step {self.step}"
            raise InputError(f"{where}: holds a state saved at {place}, which this run does not have")


def _check_counts(record: object) -> None:
    """Raises InputError for a count that cannot be: these records are read from files."""
    for name, value in vars(record).items():
        if type(value) is int and not 0 <= value < 1 << 53:
            raise InputError(f"{name} is {value}")
