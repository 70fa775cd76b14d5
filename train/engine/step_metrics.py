"""What all ranks saw in each step: read and summed one step late, so that no step waits for a number.

With several ranks each reads its own figures on the host, and one sum over the ranks (`Runtime.sum_numbers`) carries
them all: losses, counts and flags.
"""

import math
from dataclasses import dataclass

import torch

from steel.distributed.runtime import Runtime
from steel.distributed.signals import StopSignals
from steel.model.host_copy import HostCopy
from train.engine.batch_plan import PhasePlan
from train.engine.step import StepSums
from train.engine.stopwatch import Moment, Stopwatch


@dataclass(frozen=True)
class FinishedStep:
    """What all ranks together saw in one step."""

    plan: PhasePlan
    step: int
    """From 0, within the phase."""
    lr: float
    """The learning rate that it was taken at."""
    losses: dict[str, float]
    """Weighted loss of each head of the network, mean over the global batch."""
    skipped: bool
    is_overflow: bool
    """Skipped in fp16 although its loss is finite: the scaler is looking for its scale."""
    bad_samples: int
    """Samples that the loaders had to replace."""
    data_wait: float
    """Seconds in which the step waited for its samples, mean over ranks."""
    told_to_stop: bool
    """Some rank had received a stop signal when the step was launched."""
    can_save: bool
    """Some rank that writes states had then written all that it was given."""
    save_due: bool
    """Some rank's clock then said that it is time to save a state."""
    suspects: list[int]
    """Of a skipped step: rows of *this rank's* samples with a non-finite loss; all of them where none has one."""


@dataclass
class _Pending:
    """A step whose figures have not been read yet."""

    plan: PhasePlan
    step: int
    lr: float
    figures: HostCopy
    """Loss of each head, whether it was skipped; then the loss of each of this rank's samples."""
    heads: tuple[str, ...]
    rows: torch.Tensor
    bad_samples: int
    data_wait: float
    told_to_stop: bool
    can_save: bool
    save_due: bool
    end: Moment


@dataclass(frozen=True)
class Speed:
    """Of the steps of a window."""

    images_per_second: float | None
    """None when there is no time to divide by."""
    data_wait: float | None
    """The share of the time in which steps waited for samples, 0 to 1."""


class StepMetrics:
    """Turns device-side step sums into what happened, the same on every rank, and times the steps."""

    def __init__(self, runtime: Runtime, signals: StopSignals, *, fp16: bool) -> None:
        self._runtime = runtime
        self._signals = signals
        self._fp16 = fp16
        self._stopwatch = Stopwatch(runtime.device)
        self._pending: _Pending | None = None
        self._waited = 0.0

    def is_told_to_stop(self) -> bool:
        """Whether this rank has received a stop signal; the others know with the next step."""
        return self._signals.received

    def push(
        self,
        plan: PhasePlan,
        step: int,
        lr: float,
        sums: StepSums,
        *,
        can_save: bool = False,
        save_due: bool = False,
        data_wait: float = 0.0,
    ) -> FinishedStep | None:
        """Begin to read `step`, and finish the step before it, if there is one.

        Args:
            plan: of the phase.
            step: its number in the phase.
            lr: the rate that it was taken at.
            sums: what this rank saw.
            can_save: this rank has written all states that it was given; reaches all ranks with the step.
            save_due: this rank's clock says that it is time to save; reaches all ranks with the step.
            data_wait: seconds in which this rank waited for the step's samples.
        """
        end = self._stopwatch.lap()
        totals = torch.stack([*sums.losses.values(), sums.skipped.double()])
        figures = HostCopy(torch.cat([totals, sums.sample_losses.double()]))
        heads, is_told = tuple(sums.losses), self._signals.received
        begun = _Pending(
            *(plan, step, lr, figures, heads, sums.rows, sums.bad_samples, data_wait, is_told, can_save, save_due, end)
        )
        finished = self.flush()
        self._pending = begun
        return finished

    def flush(self) -> FinishedStep | None:
        """Finish the step under way, if there is one."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        *totals, is_skipped = pending.figures.read()[: len(pending.heads) + 1]
        world = self._runtime.world
        counts = pending.told_to_stop, pending.bad_samples, pending.can_save, pending.save_due
        mine = (*totals, is_skipped / world, *map(float, counts), pending.data_wait / world)
        *losses, skipped, told_to_stop, bad_samples, can_save, save_due, data_wait = self._runtime.sum_numbers(mine)
        self._waited += data_wait
        self._stopwatch.add(pending.plan.phase.batch_size, pending.end)
        return FinishedStep(
            plan=pending.plan,
            step=pending.step,
            lr=pending.lr,
            losses=dict(zip(pending.heads, losses, strict=True)),
            skipped=skipped > 0.5,
            is_overflow=self._fp16 and skipped > 0.5 and sum(losses) < float("inf"),
            bad_samples=round(bad_samples),
            data_wait=data_wait,
            told_to_stop=told_to_stop > 0,
            can_save=can_save > 0,
            save_due=save_due > 0,
            suspects=_suspects(pending) if skipped > 0.5 else [],
        )

    def take_speed(self) -> Speed:
        """Of the steps finished since the last call or restart."""
        (images, seconds), waited = self._stopwatch.take(), self._waited
        self._waited = 0.0
        if seconds <= 0:
            return Speed(None, None)
        return Speed(round(images / seconds, 2), round(min(1.0, waited / seconds), 4))

    def restart_clock(self) -> None:
        """Leave out what came between two steps, such as a validation, from the next images per second."""
        assert self._pending is None, "a step under way would be timed from the wrong moment"
        self._stopwatch.start()
        self._waited = 0.0


def _suspects(pending: _Pending) -> list[int]:
    rows, losses = pending.rows.tolist(), pending.figures.read()[len(pending.heads) + 1 :]
    return [row for row, loss in zip(rows, losses, strict=True) if not math.isfinite(loss)] or rows
