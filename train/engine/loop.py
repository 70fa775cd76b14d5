"""The training loop: steps, validations, states, stop signals, in the order they happen."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from steel.config import Config
from steel.distributed.runtime import Runtime
from steel.errors import SharedError, out_of_memory_as
from steel.loading.train_loader import MicroBatch
from train.engine.batch_plan import PhasePlan
from train.engine.loop_state import LoopState
from train.engine.metric_logger import MetricLogger
from train.engine.state import StateWriter, snapshot
from train.engine.step import TrainingState
from train.engine.step_metrics import StepMetrics

LESS_MEMORY = "a smaller phases.N.micro-batch needs less at the same batch size"


@dataclass
class Loop:
    """The parts of one training run, wired together by `train.fit`."""

    runtime: Runtime
    config: Config
    plans: Sequence[PhasePlan]
    training: TrainingState
    state: LoopState
    step_metrics: StepMetrics
    metric_logger: MetricLogger
    writer: StateWriter | None
    """Rank 0's; the other ranks write nothing."""
    load: Callable[[PhasePlan, int], Generator[MicroBatch, None, None]]
    """This rank's micro-batches of a phase, from a step on."""
    judge: Callable[[PhasePlan], float]
    """Validate the weights, keep them if they are among the best; the score."""
    name_suspects: Callable[[list[int]], None]
    """Write down the samples behind non-finite losses: those of these rows, and the other ranks'."""

    def run(self) -> bool:
        """Train from where `state` stands to the end of the last phase.

        Returns:
            True when training is complete; False when a stop signal ended it, with a state saved.
        """
        for plan in self.plans[self.state.phase :]:
            if plan.number != self.state.phase:
                self.state.start_phase(plan.number)
            if not self._train_phase(plan):
                return False
        return True

    def _train_phase(self, plan: PhasePlan) -> bool:
        patience = self.config.validation.patience
        self.step_metrics.restart_clock()
        if self.state.validation_due:
            self._validate(plan)
        load, guard = self.load(plan, self.state.step), self.runtime.guard()
        with contextlib.closing(load) as batches, guard, out_of_memory_as(LESS_MEMORY):
            while self.state.step < plan.steps and not (patience and self.state.stale >= patience):
                step = self.state.step
                self._record(self.step_metrics.push(plan, step, self.training.step(plan, step, batches)))
                self.state.step += 1
                self.state.validation_due = plan.validates_after(step)
                self._stop_if_nonfinite()

                # Saved before the validation, which may outlast what is left between a stop signal and a kill.
                if self.state.validation_due or self.state.step % self.config.runtime.save_every == 0:
                    self.save()
                if self.writer is not None:
                    self.writer.check()
                if self.step_metrics.stop:
                    self.save()
                    return False
                if self.state.validation_due:
                    self._validate(plan)
        return True

    def _validate(self, plan: PhasePlan) -> None:
        self._note_score(plan, self.judge(plan))
        self.state.validation_due = False
        self.step_metrics.restart_clock()

    def save(self) -> None:
        """Save a resumable state of this moment; training goes on while it is written."""
        self._record(self.step_metrics.flush())
        if self.writer is not None:
            self.writer.submit(snapshot(self.state, self.training.tensors()))

    def _record(self, record: dict[str, Any] | None) -> None:
        if record is not None:
            self.metric_logger.log(record)

    def _note_score(self, plan: PhasePlan, score: float) -> None:
        if score > self.state.phase_best:
            self.state.phase_best, self.state.stale = score, 0
            return
        self.state.stale += 1
        if self.state.stale == self.config.validation.patience and self.state.step < plan.steps:
            self.state.stopped_early.append(
                f"phase {plan.phase.name} stopped early after {plan.epoch_at(self.state.step):.1f} of "
                f"{plan.phase.epochs:g} epochs: {self.state.stale} validations in a row brought no better score "
                f"than {self.state.phase_best:.4f}"
            )

    def _stop_if_nonfinite(self) -> None:
        limit = self.config.optim.nonfinite_limit
        if self.state.nonfinite_streak >= limit:
            self.name_suspects(self.step_metrics.suspects)
            raise SharedError(
                f"{limit} steps in a row had a non-finite loss or gradient, the last at phase {self.state.phase} "
                f"step {self.state.step}; lower the learning rate or look at the samples in nonfinite.json"
            )
