"""Learning-rate schedules by name: pure functions of the step, so that resuming needs to know nothing else.

    schedule(step, total_steps, phase) -> the rate of `step` (from 0) in a phase of `total_steps`

Each rises to `phase.lr` over `phase.warmup` of the steps first. Without torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from steel.config import PhaseConfig
from steel.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes through a phase."""

    meaning: str
    """In a few words, for `--help`."""
    rate: Callable[[int, int, PhaseConfig], float]
    """From step, steps of the phase and the phase to the rate; see the head of this module."""
    ignores: tuple[str, ...] = ()
    """Fields of the phase for other schedules, of which this one makes nothing; to give them with it is refused."""


def lr_at(step: int, total_steps: int, phase: PhaseConfig) -> float:
    """The learning rate of `step` (from 0) in a phase of `total_steps`, as `phase.schedule` has it.

    Raises:
        InputError: a schedule that is not in the table.
    """
    assert 0 <= step < total_steps, f"step {step} of {total_steps}"
    return find_schedule(phase).rate(step, total_steps, phase)


def find_schedule(phase: PhaseConfig) -> Schedule:
    """The schedule of a phase.

    Raises:
        InputError: it is not in the table.
    """
    if phase.schedule not in SCHEDULES:
        raise InputError(
            f"phase {phase.name}: schedule {phase.schedule!r} is unknown; there are {', '.join(SCHEDULES)}"
        )
    return SCHEDULES[phase.schedule]


def _after_warmup(step: int, total_steps: int, phase: PhaseConfig, fall: Callable[[float], float]) -> float:
    """A linear rise over `phase.warmup` of the steps, whose first is already above 0, then a fall from `phase.lr`.

    Args:
        step: from 0.
        total_steps: of the phase.
        phase: its `lr`, `warmup` and `lr_floor`.
        fall: from the share of the steps after the rise that are done, above 0 to 1, to how far the rate still stands
            above `lr_floor * lr`, from 1 to 0.
    """
    warmup_steps = math.ceil(phase.warmup * total_steps)
    if step < warmup_steps:
        return phase.lr * (step + 1) / warmup_steps
    progress = (step + 1 - warmup_steps) / max(total_steps - warmup_steps, 1)
    floor = phase.lr * phase.lr_floor
    return floor + (phase.lr - floor) * fall(progress)


def _cosine(step: int, total_steps: int, phase: PhaseConfig) -> float:
    return _after_warmup(step, total_steps, phase, lambda progress: (1 + math.cos(math.pi * progress)) / 2)


def _constant(step: int, total_steps: int, phase: PhaseConfig) -> float:
    return _after_warmup(step, total_steps, phase, lambda progress: 1.0)


def _polynomial(step: int, total_steps: int, phase: PhaseConfig) -> float:
    return _after_warmup(step, total_steps, phase, lambda progress: (1 - progress) ** phase.lr_power)


ONE_CYCLE_START = 1 / 25
"""The first rate of `one_cycle`, as a share of the highest."""


def _one_cycle(step: int, total_steps: int, phase: PhaseConfig) -> float:
    """Smith and Topin 2017, in two parts as `torch.optim.lr_scheduler.OneCycleLR` has it: half a cosine up, half a
    cosine down, from the first step to the last."""
    rise = phase.warmup * total_steps - 1
    if step < rise:
        start, end, share = ONE_CYCLE_START * phase.lr, phase.lr, step / rise
    else:
        first = max(rise, 0.0)
        start, end, share = phase.lr, phase.lr_floor * phase.lr, (step - first) / ((total_steps - 1 - first) or 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule("a linear rise, then half a cosine down to `lr-floor`", _cosine, ("lr_power",)),
    "constant": Schedule("a linear rise, then the same rate to the end", _constant, ("lr_floor", "lr_power")),
    "one_cycle": Schedule(
        "half a cosine up over `warmup` (0.3 is usual), then one down to `lr-floor`", _one_cycle, ("lr_power",)
    ),
    "polynomial": Schedule(
        "a linear rise, then down to `lr-floor` as a power, `lr-power`, of what is left", _polynomial
    ),
}
"""Every schedule by name, `--phases.N.schedule NAME`."""
