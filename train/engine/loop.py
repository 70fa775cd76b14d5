"""The training loop: steps, validations, states, stop signals, in the order they happen."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from steel.errors import NotFiniteError, SharedError, out_of_memory_as
from steel.loading.train_loader import MicroBatch
from steel.model.lr_schedule import lr_at
from steel.model.network import UnifiedModel
from train.engine.batch_plan import PhasePlan
from train.engine.compilation import choose_compilation
from train.engine.data import resolve_crop
from train.engine.device_batches import device_batches
from train.engine.loop_state import LoopState, Window
from train.engine.made_up_batch import made_up_batch
from train.engine.metric_logger import MetricLogger, train_figures
from train.engine.run_context import RunContext
from train.engine.run_progress import PREDICTING, TUNING, RunProgress
from train.engine.state_writer import StateWriter
from train.engine.step import TrainingState
from train.engine.step_metrics import FinishedStep, StepMetrics
from train.engine.stopwatch import TimedIterator
from train.engine.top_checkpoints import TopCheckpoint, TopCheckpoints
from train.engine.validation import ValidationResult, validate, validation_examples, validation_scores
from train.engine.validation_loss import validation_loss

logger = logging.getLogger("train.fit")


@dataclass
class Loop:
    """The parts of one training run, wired together by `train.fit`. `state` is changed here alone."""

    context: RunContext
    state: LoopState
    training: TrainingState
    step_metrics: StepMetrics
    metric_logger: MetricLogger
    progress: RunProgress
    top_checkpoints: TopCheckpoints
    writer: StateWriter | None
    """Rank 0's; the other ranks write nothing."""
    load: Callable[[PhasePlan, int, Sequence[float | None]], Generator[MicroBatch, None, None]]
    """This rank's micro-batches of a phase, from a step on, by what was missed before the phase."""
    less_memory: Callable[[PhasePlan], str]
    """What to do where memory runs out in a phase, in words."""
    name_suspects: Callable[[list[int]], None]
    """Write down the samples behind non-finite losses: those of these rows, and the other ranks'."""
    _told_to_stop: bool = False
    """Some rank has received a stop signal; known to all ranks after the same step."""
    _told_to_save: bool = False
    """By rank 0's clock a state is due; known to all ranks after the same step."""
    _owes_state: bool = False
    """By the number of steps a state is due."""
    _can_save: bool = True
    """Rank 0 has written what it was given last; known to all ranks after the same step."""
    _suspects: list[int] = field(default_factory=list)
    """Rows of this rank's samples behind the current streak of non-finite steps."""

    def run(self) -> bool:
        """Train from where `state` stands to the end of the last phase.

        Returns:
            True when training is complete; False when a stop signal ended it, with a state saved.
        """
        for plan in self.context.plans[self.state.phase :]:
            if plan.number != self.state.phase:
                self.state.start_phase(plan.number)
            if not self._train_phase(plan):
                return False
        self._fail_if_untrained()
        if self.writer is not None:
            self.writer.wait()  # the best weights are read next
        self.training.micro_batch_losses.compute_eagerly()  # what follows has the memory
        return True

    def _train_phase(self, plan: PhasePlan) -> bool:
        """Train to the phase's end, or to an early one; False when a stop signal came first."""
        if self.state.validation_due:  # the last attempt ended between a state and its validation
            self._validate(plan)
        if self.state.step < plan.steps:
            self._choose_compilation(plan)
        self.step_metrics.restart_clock()
        self.progress.start_phase()
        runtime = self.context.runtime
        loaded = self.load(plan, self.state.step, self.state.missed_before)
        # What is on the device ahead of its step counts for nothing: a state has the number of the step alone.
        load, guard = device_batches(loaded, runtime.device), runtime.guard()
        with contextlib.closing(load), guard, out_of_memory_as(functools.partial(self.less_memory, plan)):
            batches = TimedIterator(load)
            while self.state.step < plan.steps and not self._is_out_of_patience():
                self._take_step(plan, batches)

                # Saved before the validation, which may outlast what is left between a stop signal and a kill.
                if self.state.validation_due or self._is_save_due() or self._told_to_stop:
                    self._save()
                if self.writer is not None:
                    self.writer.check()
                if self._told_to_stop:  # perhaps by the step that the save has finished: it is of this moment
                    return False
                if self.state.validation_due:
                    self._validate(plan)
        return True

    def _choose_compilation(self, plan: PhasePlan) -> None:
        context = self.context
        manifest, is_on_gpu = context.reader.manifest, context.runtime.device.type == "cuda"
        crop = resolve_crop(context.reader, context.rows.train, plan.phase.crop, context.config.tiling)
        make_batch = functools.partial(
            made_up_batch,
            *(manifest.channels, manifest.num_classes, plan.phase.micro_batch, crop),
            pin_memory=is_on_gpu,
        )
        with context.live.stage("compiling", "choosing whether to compile the step"):
            choice = choose_compilation(
                *(self.training, plan, self.state.step, make_batch, self.state.compilation),
                is_told_to_stop=self.step_metrics.is_told_to_stop,
            )
        if choice is not None:
            self.state.compilation = choice

    def _take_step(self, plan: PhasePlan, batches: TimedIterator[MicroBatch]) -> None:
        """Launch a step, and take in the one before it meanwhile."""
        step = self.state.step
        lr = lr_at(step, plan.steps, plan.phase)
        sums = self.training.step(plan, step, lr, batches)
        can_save = self.writer is not None and self.writer.is_idle
        save_due = self.writer is not None and self.writer.is_due
        data_wait = batches.take_seconds()
        self._take_in(
            self.step_metrics.push(plan, step, lr, sums, can_save=can_save, save_due=save_due, data_wait=data_wait)
        )
        self.state.step += 1
        self.state.validation_due = plan.validates_after(step)
        every = self.context.config.runtime.save_every
        self._owes_state = self._owes_state or (every > 0 and self.state.step % every == 0)
        self._fail_if_nonfinite()

    def _take_in(self, done: FinishedStep | None) -> None:
        """Count a finished step, if there is one, and log the window that it ends."""
        if done is None:
            return
        self._told_to_stop = self._told_to_stop or done.told_to_stop
        self._told_to_save = self._told_to_save or done.save_due
        self._can_save = self._can_save or done.can_save
        if self.state.count_step(done):
            self._suspects += done.suspects
        elif not done.skipped:
            self._suspects.clear()
        self.progress.count_step(done, self.state)
        num_done = done.step + 1
        if num_done % self.context.config.tracking.log_every == 0 or num_done == done.plan.steps:
            self._log_window(done.plan, num_done)

    def _log_window(self, plan: PhasePlan, num_done: int) -> None:
        """Write what the steps since the last record were like, and begin anew."""
        figures = train_figures(self.state, self.step_metrics.take_speed())
        self.metric_logger.log({"kind": "train", **plan.place_after(num_done)}, lambda: figures)
        self.state.window = Window()

    def _fail_if_nonfinite(self) -> None:
        limit = self.context.config.optim.nonfinite_limit
        if self.state.nonfinite_streak >= limit:
            self.name_suspects(self._suspects)
            raise SharedError(
                f"{limit} steps in a row had a non-finite loss or gradient, the last at phase {self.state.phase} "
                f"step {self.state.step}; lower the learning rate or look at the samples in nonfinite.json"
            )

    def _fail_if_untrained(self) -> None:
        """A run of fewer steps than the limit may skip all of them, and would ship the weights it began with."""
        if not self.training.has_stepped:
            self.name_suspects(self._suspects)
            raise SharedError(
                f"none of {self.state.nonfinite_steps + self.state.scaler_overflows} steps had a finite loss and "
                "gradient: nothing was trained; lower the learning rate or look at the samples in nonfinite.json"
            )

    def _is_save_due(self) -> bool:
        """Whether a state is due, by time or by the number of steps, that training need not wait for."""
        return self._told_to_save or (self._owes_state and self._can_save)

    def _save(self) -> None:
        """Save a resumable state of this moment; training goes on while it is written.

        It waits for the state before, if that is still being written: one before a validation, or for a stop signal,
        cannot be put off.
        """
        begun = time.monotonic()
        self._take_in(self.step_metrics.flush())
        self._told_to_save = self._owes_state = self._can_save = False
        if self.writer is not None:
            with self.context.live.stage("saving", "saving the state"):  # its copy; it is written beside training
                tensors = self.training.tensors()
                self.writer.submit(self.state, self.top_checkpoints.ranked, tensors, time.monotonic() - begun)

    def _validate(self, plan: PhasePlan) -> None:
        """Score the weights, keep them if they are among the best, and see whether the phase still gets better.

        All ranks predict and tune, the pictures of a tracker too. The scores, whose warning resamples the images, are
        computed, the best weights and the history written, the curves drawn and the tracker told beside training.
        """
        model, spent = self.training.scored_model(plan.number), self.context.live.spent
        before = spent.copy()
        try:
            result = validate(self.context, model, tta=())
        except NotFiniteError as error:  # on every rank: a step or a scale further on the weights may be sound again
            self._note_failed_validation(plan, error)
            return
        losses = validation_loss(self.context, self.training, model, plan)
        self.progress.count_validation(*(spent[part] - before[part] for part in (PREDICTING, TUNING)))
        self._report_validation(plan, model, result, losses)
        epoch = round(plan.epoch_at(self.state.step), 2)
        offered = TopCheckpoint(result.score, plan.number, self.state.step, epoch)
        is_kept = self.top_checkpoints.offer(offered)
        if self.writer is not None:
            self.writer.submit_best(self.top_checkpoints, offered, model.state_dict() if is_kept else None)
        if not self.state.count_validation(result.score, result.missed):
            self._note_early_stop(plan)
        self._restart_clocks()

    def _note_failed_validation(self, plan: PhasePlan, error: NotFiniteError) -> None:
        """Weights that say nothing of an image have no score: they are not ranked, and the training goes on."""
        logger.warning(
            "validation after %.1f epochs of phase %s: no score, and these weights are not kept (%s)",
            *(plan.epoch_at(self.state.step), plan.phase.name, error),
        )
        self.state.count_failed_validation()
        self._note_early_stop(plan)
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self.step_metrics.restart_clock()
        self.progress.restart_clock()

    def _report_validation(
        self, plan: PhasePlan, model: UnifiedModel, result: ValidationResult, losses: Mapping[str, float]
    ) -> None:
        place = {"kind": "validation", **plan.place_after(self.state.step)}
        by_head = {"loss": sum(losses.values()), **{f"loss_{head}": loss for head, loss in losses.items()}}
        self.metric_logger.log(place, lambda: {**by_head, **validation_scores(self.context, result)})
        if self.metric_logger.is_watched:
            examples = validation_examples(self.context, model, result)
            if examples is not None:
                self.metric_logger.show(examples)

    def _is_out_of_patience(self) -> bool:
        patience = self.context.config.validation.patience
        return patience > 0 and self.state.stale >= patience

    def _note_early_stop(self, plan: PhasePlan) -> None:
        """Say so, and log the steps that no record has, if this validation ends the phase before its last step."""
        if self.state.stale == self.context.config.validation.patience and self.state.step < plan.steps:
            if self.state.window != Window():
                self._log_window(plan, self.state.step)
            self.state.stopped_early.append(
                f"phase {plan.phase.name} stopped early after {plan.epoch_at(self.state.step):.1f} of "
                f"{plan.phase.epochs:g} epochs: {self.state.stale} validations in a row brought no better score"
                + ("" if self.state.phase_best is None else f" than {self.state.phase_best:.4f}")
            )
