"""Positions of a run as pure arithmetic: which samples a step consumes, and which rank takes which micro-batch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steel.config import PhaseConfig
from steel.errors import InputError


@dataclass(frozen=True)
class MicroBatchRange:
    """`positions` of the phase's endless sample order, as micro-batch number `index` of step `step`."""

    step: int
    index: int
    positions: range


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a run, measured against the data it will see."""

    number: int
    phase: PhaseConfig
    epoch_length: int
    """Samples in one pass of the phase's order."""
    validation_interval: int
    """Samples between two validations."""
    first_global_step: int
    """Steps of all phases before this one."""
    share: range
    """This rank's micro-batches of each step; see `micro_batch_share`."""

    @property
    def steps(self) -> int:
        """The phase's length: its epochs, rounded up to whole steps."""
        return math.ceil(round(self.phase.epochs * self.epoch_length, 6) / self.phase.batch_size)

    def validates_after(self, step: int) -> bool:
        """Whether a validation follows step `step` (0-based): at each interval crossed, and at the phase's end."""
        before, after = step * self.phase.batch_size, (step + 1) * self.phase.batch_size
        crossed = after // self.validation_interval > before // self.validation_interval
        return crossed or step + 1 == self.steps

    def validations_after(self, step: int) -> int:
        """How many validations follow the first `step` steps, that of the `step`-th itself left out."""
        if step >= self.steps:
            return 0
        size, interval = self.phase.batch_size, self.validation_interval
        crossed = self.steps * size // interval - step * size // interval
        is_extra = self.steps * size // interval == (self.steps - 1) * size // interval  # the phase's end crosses none
        # A step that crosses several intervals is validated once.
        several = size > interval
        return self.steps - step if several else crossed + is_extra

    def epoch_at(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        return step * self.phase.batch_size / self.epoch_length

    def place_after(self, step: int) -> dict[str, Any]:
        """Where `step` steps of this phase lead to, as a record of the history has it."""
        return {
            "phase": self.number,
            "step": step,
            "global_step": self.first_global_step + step,
            "epoch": round(self.epoch_at(step), 4),
        }

    def micro_batches(self, first_step: int) -> Iterator[MicroBatchRange]:
        """The micro-batches that this rank computes, from `first_step` to the phase's end, in order."""
        size = self.phase.micro_batch
        for step in range(first_step, self.steps):
            for index in self.share:
                start = step * self.phase.batch_size + index * size
                yield MicroBatchRange(step, index, range(start, start + size))


def check_processes(phases: Sequence[PhaseConfig], world: int) -> None:
    """That each of `world` ranks has something to do in each step of each phase.

    Raises:
        InputError: more ranks than micro-batches; says which options of which phases give them more.
    """
    short = [(number, phase) for number, phase in enumerate(phases) if phase.micro_batches < world]
    if not short:
        return
    most = min(phase.micro_batches for _, phase in short)
    sizes = "; ".join(f"phase {p.name}: batch-size {p.batch_size} / micro-batch {p.micro_batch}" for _, p in short)
    smaller = [(number, _smaller_micro_batch(phase.batch_size, world)) for number, phase in short]
    micro = " ".join(f"--phases.{number}.micro-batch {size}" for number, size in smaller)
    batch = " ".join(f"--phases.{number}.batch-size {world * phase.micro_batch}" for number, phase in short)
    raise InputError(
        f"{world} processes share {most} micro-batch{'es' if most > 1 else ''} per step ({sizes}); start at most {most}"
        f" or give {f'smaller micro-batches ({micro}) or ' if all(size for _, size in smaller) else ''}"
        f"larger batches ({batch})"
    )


def _smaller_micro_batch(batch_size: int, world: int) -> int:
    """The largest that gives each of `world` ranks one, of two images at least, for batch normalisation; 0 without."""
    fitting = (size for size in range(batch_size // world, 1, -1) if batch_size % size == 0)
    return next(fitting, 0)


def micro_batch_share(phase: PhaseConfig, rank: int, world: int) -> range:
    """The micro-batches of a step that fall to `rank`: whole ones, contiguous, as even as they come; at least one, as
    `check_processes` has seen to."""
    total = phase.micro_batches
    assert world <= total, (phase.name, world, total)
    return range(rank * total // world, (rank + 1) * total // world)


def most_micro_batches(phase: PhaseConfig, world: int) -> int:
    """Of a step, with the rank that has the most of them, for which the others wait."""
    return math.ceil(phase.micro_batches / world)


def most_images(phase: PhaseConfig, world: int) -> int:
    """Of a step, with that rank."""
    return most_micro_batches(phase, world) * phase.micro_batch


def plan_phases(
    phases: Sequence[PhaseConfig], epoch_lengths: Sequence[int], every_epochs: float, *, rank: int, world: int
) -> tuple[PhasePlan, ...]:
    """Measure each phase against the samples it draws from.

    Args:
        phases: of the run, in order.
        epoch_lengths: in samples, one for each phase.
        every_epochs: passes over the data between two validations.
        rank: whose micro-batches are planned.
        world: number of ranks.

    Raises:
        InputError: as `check_processes`.
    """
    check_processes(phases, world)
    plans: list[PhasePlan] = []
    first = 0
    for number, (phase, length) in enumerate(zip(phases, epoch_lengths, strict=True)):
        interval = max(1, round(every_epochs * length))
        plans.append(PhasePlan(number, phase, length, interval, first, micro_batch_share(phase, rank, world)))
        first += plans[-1].steps
    return tuple(plans)
