"""What a run is doing, said while it runs: what it will do, how long that takes, where it stands."""

import logging
import time
from collections.abc import Sequence

import psutil
import torch

from steel.config import Config
from steel.distributed.runtime import Runtime
from steel.errors import counted
from steel.labels.classes import beside_classes
from steel.loading.hard_sampler import HardSampler
from steel.loading.sampler import Sampler
from steel.shards.reader import ShardReader
from train.engine.batch_plan import PhasePlan
from train.engine.data import FoldRows, explain_crop, resolve_crop, say_missing_classes, say_shared_groups
from train.engine.loop_state import LoopState
from train.engine.pace import Pace, TimedStep, TimeLeft, Work
from train.engine.run_context import RunContext
from train.engine.step_metrics import FinishedStep
from train.live_line import LiveLine, Part, format_duration

logger = logging.getLogger("train.fit")

FIRST_STEPS, ENOUGH_STEPS, FIRST_S = 3, 20, 5.0
"""The pace is told after so many steps: the first figure once so many seconds have passed, else the second."""
PREDICTING, TUNING = "validation", "threshold tuning"
"""The two parts of a validation, as stages of the live line."""


def announce_data(config: Config, reader: ShardReader, rows: FoldRows, runtime: Runtime) -> None:
    """Say what is trained on what, before anything that takes its time."""
    logger.info(
        "training %s with %s on %d images of %s; %d images validate, %d are kept for a test",
        *(config.model.architecture, config.model.encoder, len(rows.train)),
        *(counted(reader.manifest.num_classes, "class"), len(rows.validation), len(rows.test)),
    )
    for line in (*say_missing_classes(reader, rows), *say_shared_groups(reader, rows)):
        logger.warning("WARNING: %s", line)
    precision = runtime.accelerator.mixed_precision
    logger.info("%s on %s, mixed precision: %s", counted(runtime.world, "process"), runtime.device, precision)


def announce_phases(context: RunContext, state: LoopState) -> None:
    """Say how long the phases are, and from where on the run goes."""
    for plan in context.plans:
        height, width = resolve_crop(
            context.reader, context.rows.train, plan.phase.crop, context.config.tiling, plan.phase.sampling.zoom[0]
        )
        logger.info(
            "phase %d of %d, %s: %s, %s of %d images of %dx%d, %s",
            *(plan.number + 1, len(context.plans), plan.phase.name, counted(plan.phase.epochs, "epoch")),
            *(counted(plan.steps, "step"), plan.phase.batch_size, height, width),
            counted(plan.validations_after(0), "validation"),
        )
        told = explain_crop(context.reader, context.rows.train, plan.phase.crop, context.config.tiling)
        if told is not None:
            logger.info("phase %d: %s", plan.number + 1, told)
    announce_reasons(context.config)
    if (state.phase, state.step) != (0, 0):
        logger.info("resuming at phase %s, step %d", context.plans[state.phase].phase.name, state.step)


def announce_reasons(config: Config) -> None:
    """Say why a recipe that was made of the data or for a time is as it is."""
    for option, reason in config.reasons.items():
        logger.info("auto: %s: %s", option, reason)


def announce_hard(
    plan: PhasePlan, sampler: Sampler, missed: Sequence[float | None], class_names: Sequence[str]
) -> None:
    """Say which share of a phase's hard positions each class is given, and why.

    Args:
        plan: of the phase.
        sampler: of the phase.
        missed: of clean images and of each class, by the last validation before the phase; empty: nothing is said.
        class_names: of the data.
    """
    where = f"phase {plan.number + 1}, {plan.phase.name}"
    names = (beside_classes("clean", class_names), *class_names)
    if isinstance(sampler, HardSampler):
        given = [
            f"{names[stratum.class_id]} {share}% ({_explain_missed(stratum.class_id, missed[stratum.class_id])})"
            for stratum, share in zip(sampler.strata, sampler.shares, strict=True)
        ]
        hard = f"{100 * plan.phase.sampling.hard:.3g}%"
        logger.info("%s: %s of the samples go to what the last validation missed: %s", where, hard, ", ".join(given))
    elif plan.phase.sampling.hard and missed:
        logger.info("%s: the last validation missed nothing that could be drawn; the order has all samples", where)


def _explain_missed(class_id: int, missed: float | None) -> str:
    if missed is None:
        return "no such image validates: the mean of the classes"
    return f"positive Dice {1 - missed:.2f}" if class_id else f"false alarms on {missed:.0%}"


def work_of(context: RunContext) -> Work:
    """What a run has to do."""
    config, reader, rows = context.config, context.reader, context.rows
    crops = [resolve_crop(reader, rows.train, plan.phase.crop, config.tiling) for plan in context.plans]
    index = reader.index
    pixels = index.height[rows.validation].astype("int64") * index.width[rows.validation]
    return Work(
        plans=context.plans,
        step_pixels=[p.phase.batch_size * h * w for p, (h, w) in zip(context.plans, crops, strict=True)],
        validation_pixels=int(pixels.sum()),
        final_validations=_num_candidates(config, context.plans),
        final_views=1 + len(config.validation.tta),
    )


def _num_candidates(config: Config, plans: tuple[PhasePlan, ...]) -> int:
    """At most so many weights are scored at the end; see `train.engine.model_selection.weights_to_score`."""
    is_chosen = sum(plan.validations_after(0) for plan in plans) > 1
    is_averaged = config.optim.swa or config.optim.ema_decay > 0
    return 1 + is_averaged + is_chosen + (is_chosen and config.optim.average_top_k > 1)


class RunProgress:
    """Turns what the loop does into the live line. It takes no part in training: nothing here waits for a device."""

    def __init__(self, context: RunContext, live: LiveLine) -> None:
        self._context = context
        self._live = live
        self._pace = Pace(work_of(context))
        self._num_steps = 0
        """Of this attempt, until the pace has been told."""
        self._is_told = False
        self._begun = self._since = time.monotonic()

    def start_phase(self) -> None:
        """A phase begins, or goes on in a new attempt."""
        self._pace.start_phase()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave out what came between two steps, such as a validation, from the next step's time."""
        self._since = time.monotonic()

    def count_step(self, done: FinishedStep, state: LoopState) -> None:
        """A step has been taken, `state` is told of it."""
        now = time.monotonic()
        losses = {} if done.skipped else done.losses
        timed = TimedStep(done.plan.phase.batch_size, now - self._since, done.data_wait, losses)
        self._since = now
        self._pace.count_step(done.plan.number, timed)
        self._live.show(lambda: self._parts(done, state))
        self._num_steps += 1
        if not self._is_told and (
            self._num_steps >= ENOUGH_STEPS or (self._num_steps >= FIRST_STEPS and now - self._begun >= FIRST_S)
        ):
            self._is_told = True
            self._tell_pace(done)

    def count_validation(self, predicting: float, tuning: float) -> None:
        """A validation has taken so many seconds, in its two parts."""
        self._pace.count_validation(predicting, tuning)

    def _tell_pace(self, done: FinishedStep) -> None:
        left, speed = self._pace.time_left(done.plan.number, done.step + 1), self._pace.images_per_second()
        if left is not None and speed is not None:
            logger.info("%s", describe_pace(left, self._num_steps, speed, time.time()))

    def _parts(self, done: FinishedStep, state: LoopState) -> list[Part]:
        plan, plans = done.plan, self._context.plans
        losses, speed, waiting = self._pace.losses(), self._pace.images_per_second(), self._pace.data_wait()
        left = self._pace.time_left(plan.number, done.step + 1)
        heads = ", ".join(f"{head} {loss:.4f}" for head, loss in losses.items())
        return [
            Part(f"phase {plan.number + 1}/{len(plans)} {plan.phase.name}", 3),
            Part(f"epoch {plan.epoch_at(done.step + 1):.1f}/{plan.phase.epochs:g}", 1),
            Part(f"step {done.step + 1:,}/{plan.steps:,}", 7),
            Part(f"loss {sum(losses.values()):.4f}" if losses else "loss: all steps skipped", 0),
            Part(heads if len(losses) > 1 else "", 5),
            Part("" if speed is None else f"{speed:.{1 if speed < 100 else 0}f} images/s", 2),
            Part("" if left is None else f"{format_duration(left.total)} to go", 0),
            Part("" if waiting is None else f"{waiting:.0%} data wait", 4),
            Part(describe_memory(self._context.runtime.device), 6),
            Part(f"{state.nonfinite_steps} steps skipped" if state.nonfinite_steps else "", 1),
        ]


def describe_pace(left: TimeLeft, num_steps: int, images_per_second: float, now: float) -> str:
    """How long a run will take, in a sentence.

    Args:
        left: to its end.
        num_steps: that say so.
        images_per_second: their speed.
        now: seconds since the epoch.
    """
    end = time.strftime("%a %H:%M", time.localtime(now + left.total))
    return (
        f"{format_duration(left.total)} to go at the pace of the first {num_steps} steps "
        f"({images_per_second:.1f} images/s): training {format_duration(left.training)}, "
        f"validations {format_duration(left.validations)}, "
        f"choosing the model {format_duration(left.selection)}; ends about {end}"
    )


def describe_memory(device: torch.device) -> str:
    """What this process holds: of its GPU's memory, else of the host's."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return f"GPU {torch.cuda.max_memory_reserved(device) / 2**30:.1f} of {total / 2**30:.0f} GB"
    return f"{psutil.Process().memory_info().rss / 2**30:.1f} GB"
