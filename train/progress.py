"""Where a run stands, apart from its tensors: a small explicit record that travels inside every resumable state."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """Weights of one validated epoch, kept on disk because they may be shipped."""

    score: float
    file: str
    """Name inside the run folder's `candidates/`."""
    phase: int
    epoch: float


@dataclass
class Window:
    """Training losses since the last record of the history; sums over steps."""

    steps: int = 0
    segmentation: float = 0.0
    classification: float = 0.0


@dataclass
class Progress:
    """Everything a resumed run needs to know beside weights, averages and optimizer state."""

    phase: int = 0
    step: int = 0
    """Steps of the phase that are done; the next step's number."""
    validation_due: bool = False
    """The validation that follows these steps has not been made yet."""
    candidates: list[Candidate] = field(default_factory=list)
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
    def best(self) -> Candidate | None:
        return self.candidates[0] if self.candidates else None

    def start_phase(self, number: int) -> None:
        """Move to the beginning of phase `number`."""
        self.phase, self.step, self.stale, self.phase_best = number, 0, 0, float("-inf")
        self.window = Window()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; minus infinity becomes None."""
        values = dataclasses.asdict(self)
        values["phase_best"] = None if self.phase_best == float("-inf") else self.phase_best
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """The inverse of `to_dict`."""
        values = dict(values)
        values["candidates"] = [Candidate(**c) for c in values["candidates"]]
        values["window"] = Window(**values["window"])
        if values["phase_best"] is None:
            values["phase_best"] = float("-inf")
        return cls(**values)
