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
from train.engine.loop_state import Progress
from train.engine.metric_logger import Records
from train.engine.state import StateWriter, snapshot
from train.engine.step import Learner
from train.engine.step_metrics import Monitor

LESS_MEMORY = "a smaller phases.N.micro-batch needs less at the same batch size"


@dataclass
class Loop:
    """The parts of one training run, wired together by `train.fit`."""

    runtime: Runtime
    config: Config
    plans: Sequence[PhasePlan]
    learner: Learner
    progress: Progress
    monitor: Monitor
    records: Records
    writer: StateWriter | None
    """Rank 0's; the other ranks write nothing."""
    load: Callable[[PhasePlan, int], Generator[MicroBatch, None, None]]
    """This rank's micro-batches of a phase, from a step on."""
    judge: Callable[[PhasePlan], float]
    """Validate the learner's weights, keep them if they are among the best; the score."""
    name_suspects: Callable[[list[int]], None]
    """Write down the samples behind non-finite losses: those of these rows, and the other ranks'."""

    def run(self) -> bool:
        """Train from where `progress` stands to the end of the last phase.

        Returns:
            True when training is complete; False when a stop signal ended it, with a state saved.
        """
        for plan in self.plans[self.progress.phase :]:
            if plan.number != self.progress.phase:
                self.progress.start_phase(plan.number)
            if not self._train_phase(plan):
                return False
        return True

    def _train_phase(self, plan: PhasePlan) -> bool:
        patience = self.config.validation.patience
        self.monitor.restart_clock()
        if self.progress.validation_due:
            self._validate(plan)
        load, guard = self.load(plan, self.progress.step), self.runtime.guard()
        with contextlib.closing(load) as batches, guard, out_of_memory_as(LESS_MEMORY):
            while self.progress.step < plan.steps and not (patience and self.progress.stale >= patience):
                step = self.progress.step
                self._record(self.monitor.push(plan, step, self.learner.step(plan, step, batches)))
                self.progress.step += 1
                self.progress.validation_due = plan.validates_after(step)
                self._stop_if_nonfinite()

                # Saved before the validation, which may outlast what is left between a stop signal and a kill.
                if self.progress.validation_due or self.progress.step % self.config.runtime.save_every == 0:
                    self.save()
                if self.writer is not None:
                    self.writer.check()
                if self.monitor.stop:
                    self.save()
                    return False
                if self.progress.validation_due:
                    self._validate(plan)
        return True

    def _validate(self, plan: PhasePlan) -> None:
        self._note_score(plan, self.judge(plan))
        self.progress.validation_due = False
        self.monitor.restart_clock()

    def save(self) -> None:
        """Save a resumable state of this moment; training goes on while it is written."""
        self._record(self.monitor.flush())
        if self.writer is not None:
            self.writer.submit(snapshot(self.progress, self.learner.tensors()))

    def _record(self, record: dict[str, Any] | None) -> None:
        if record is not None:
            self.records.add(record)

    def _note_score(self, plan: PhasePlan, score: float) -> None:
        if score > self.progress.phase_best:
            self.progress.phase_best, self.progress.stale = score, 0
            return
        self.progress.stale += 1
        if self.progress.stale == self.config.validation.patience and self.progress.step < plan.steps:
            self.progress.stopped_early.append(
                f"phase {plan.phase.name} stopped early after {plan.epoch_at(self.progress.step):.1f} of "
                f"{plan.phase.epochs:g} epochs: {self.progress.stale} validations in a row brought no better score "
                f"than {self.progress.phase_best:.4f}"
            )

    def _stop_if_nonfinite(self) -> None:
        limit = self.config.optim.nonfinite_limit
        if self.progress.nonfinite_streak >= limit:
            self.name_suspects(self.monitor.suspects)
            raise SharedError(
                f"{limit} steps in a row had a non-finite loss or gradient, the last at phase {self.progress.phase} "
                f"step {self.progress.step}; lower the learning rate or look at the samples in nonfinite.json"
            )
