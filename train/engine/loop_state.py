"""Where a run stands, apart from its tensors: a small explicit record that travels inside every resumable state."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from steel.errors import InputError
from steel.plain import from_dict


@dataclass(frozen=True)
class TopCheckpoint:
    """Weights of one validated epoch, kept on disk because they may be shipped."""

    score: float
    file: str
    """Name inside the run folder's `top_checkpoints/`."""
    phase: int
    epoch: float

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9]{6,}-[0-9]{8,}\.safetensors", self.file):
            raise InputError(f"{self.file!r} is no name of kept weights")


@dataclass
class Window:
    """Training losses since the last record of the history; sums over steps."""

    steps: int = 0
    segmentation: float = 0.0
    classification: float = 0.0


@dataclass
class LoopState:
    """Everything a resumed run needs to know beside weights, averages and optimizer state."""

    phase: int = 0
    step: int = 0
    """Steps of the phase that are done; the next step's number."""
    validation_due: bool = False
    """The validation that follows these steps has not been made yet."""
    candidates: list[TopCheckpoint] = field(default_factory=list)
    """Best first."""
    phase_best: float = float("-inf")
    """Best validation score of the current phase."""
    stale: int = 0
    """Validations in a row without a better score in the current phase."""
    nonfinite_steps: int = 0
    """Steps skipped for a non-finite loss or gradient."""
    nonfinite_streak: int = 0
    scaler_overflows: int = 0
    """Steps that the fp16 loss scaler skipped; normal while it looks for its scale."""
    overflow_streak: int = 0
    """Such steps in a row."""
    bad_samples: int = 0
    """Samples replaced because their bytes did not match their checksum."""
    stopped_early: list[str] = field(default_factory=list)
    """One sentence a phase that ended early."""
    window: Window = field(default_factory=Window)

    @property
    def best(self) -> TopCheckpoint | None:
        return self.candidates[0] if self.candidates else None

    def start_phase(self, number: int) -> None:
        """Move to the beginning of phase `number`."""
        self.phase, self.step, self.stale, self.phase_best = number, 0, 0, float("-inf")
        self.window = Window()

    def check_within(self, steps: Sequence[int], where: str) -> None:
        """Raises InputError unless this is a place in a run at `where` whose phases have so many `steps`."""
        if self.phase >= len(steps) or self.step > steps[self.phase]:
            place = f"phase {self.phase}, step {self.step}"
            raise InputError(f"{where}: holds a state saved at {place}, which this run does not have")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; minus infinity becomes None."""
        values = dataclasses.asdict(self)
        values["phase_best"] = None if self.phase_best == float("-inf") else self.phase_best
        return values

    @classmethod
    def from_dict(cls, values: Any) -> "LoopState":
        """The inverse of `to_dict`.

        Raises:
            InputError: a missing or unknown field, or a value that cannot be.
        """
        is_unscored = isinstance(values, dict) and values.get("phase_best", 0) is None
        state = from_dict(cls, {**values, "phase_best": 0.0} if is_unscored else values)
        if is_unscored:
            state.phase_best = float("-inf")
        counts = {name: value for name, value in vars(state).items() if type(value) is int}
        for name, count in {**counts, "window.steps": state.window.steps}.items():
            if not 0 <= count < 1 << 53:
                raise InputError(f"LoopState.{name} is {count}")
        return state
