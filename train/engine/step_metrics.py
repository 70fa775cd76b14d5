"""Watches the steps: reads their losses and sums them over ranks one step late, so that no step waits for a number."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from steel.distributed.host_copy import HostCopy
from steel.distributed.runtime import Runtime, StopSignals
from steel.model.optimizer import lr_at
from train.engine.batch_plan import PhasePlan
from train.engine.loop_state import LoopState, Window
from train.engine.step import StepSums
from train.engine.stopwatch import Moment, Stopwatch

OVERFLOW_PATIENCE = 30
"""So many fp16 overflows in a row take the largest scale, 2**16, far below 1: a further one is no matter of scale."""


@dataclass
class _Pending:
    """A step whose figures have not been read yet."""

    plan: PhasePlan
    step: int
    figures: HostCopy
    """Segmentation loss, classification loss, whether it was skipped; then the loss of each of this rank's samples."""
    rows: torch.Tensor
    bad_samples: int
    told_to_stop: bool
    """A stop signal had come when the step was launched."""
    end: Moment


@dataclass
class StepMetrics:
    """Turns device-side step sums into counters, history records and the decision to stop, the same on every rank."""

    runtime: Runtime
    state: LoopState
    signals: StopSignals
    log_every: int
    fp16: bool
    stop: bool = False
    """Some rank has received a stop signal; seen by all ranks after the same step."""
    suspects: list[int] = field(default_factory=list)
    """Rows of this rank's samples in the current streak of non-finite steps; those with a non-finite loss, if any."""
    _pending: _Pending | None = None
    _stopwatch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self._stopwatch = Stopwatch(self.runtime.device)

    def push(self, plan: PhasePlan, step: int, sums: StepSums) -> dict[str, Any] | None:
        """Begin reading `step` and finish the step before it; a history record when one is due."""
        end = self._stopwatch.lap()
        totals = torch.stack([sums.segmentation, sums.classification, sums.skipped.double()])
        figures = HostCopy(torch.cat([totals, sums.sample_losses.double()]))
        begun = _Pending(plan, step, figures, sums.rows, sums.bad_samples, self.signals.received, end)
        record = self.flush()
        self._pending = begun
        return record

    def flush(self) -> dict[str, Any] | None:
        """Finish the step under way, so that `state` is complete up to it."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        *totals, is_skipped = pending.figures.read()[:3]
        mine = (*totals, is_skipped / self.runtime.world, float(pending.told_to_stop), float(pending.bad_samples))
        segmentation, classification, skipped, stop, bad_samples = self.runtime.sum_numbers(mine)
        self.stop = self.stop or stop > 0
        self.state.bad_samples += round(bad_samples)
        if skipped > 0.5:
            self._count_skipped(pending, finite_loss=segmentation + classification < float("inf"))
        else:
            self.state.nonfinite_streak = self.state.overflow_streak = 0
            self.suspects.clear()
            window = self.state.window
            window.steps += 1
            window.segmentation += segmentation
            window.classification += classification
        self._stopwatch.add(pending.plan.phase.batch_size, pending.end)
        done = pending.step + 1
        return self._record(pending.plan, done) if done % self.log_every == 0 or done == pending.plan.steps else None

    def _count_skipped(self, pending: _Pending, *, finite_loss: bool) -> None:
        if self.fp16 and finite_loss and self.state.overflow_streak < OVERFLOW_PATIENCE:
            self.state.scaler_overflows += 1
            self.state.overflow_streak += 1
            return
        self.state.nonfinite_steps += 1
        self.state.nonfinite_streak += 1
        rows, losses = pending.rows.tolist(), pending.figures.read()[3:]
        self.suspects += [row for row, loss in zip(rows, losses, strict=True) if not math.isfinite(loss)] or rows

    def _record(self, plan: PhasePlan, done: int) -> dict[str, Any]:
        window, self.state.window = self.state.window, Window()
        # A window of skipped steps alone has no loss: None, since NaN is not JSON.
        return {
            "kind": "train",
            "phase": plan.number,
            "step": done,
            "global_step": plan.first_global_step + done,
            "epoch": round(plan.epoch_at(done), 4),
            "loss": (window.segmentation + window.classification) / window.steps if window.steps else None,
            "loss_segmentation": window.segmentation / window.steps if window.steps else None,
            "loss_classification": window.classification / window.steps if window.steps else None,
            "lr": lr_at(done - 1, plan.steps, plan.phase),
            "images_per_second": self._stopwatch.take_rate(),
            "nonfinite_steps": self.state.nonfinite_steps,
            "scaler_overflows": self.state.scaler_overflows,
            "bad_samples": self.state.bad_samples,
        }

    def restart_clock(self) -> None:
        """Leave out what came between two steps, such as a validation, from the next images per second."""
        assert self._pending is None, "a step under way would be timed from the wrong moment"
        self._stopwatch.start()
