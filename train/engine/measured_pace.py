"""How long a run's steps and validations take, measured before the first one without changing anything."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steel.distributed.runtime import Runtime
from steel.loading.train_loader import MicroBatch
from steel.model.network import set_encoder_trainable
from train.engine.batch_plan import PhasePlan
from train.engine.compilation import there_and_back
from train.engine.dry_run import untouched
from train.engine.run_context import RunContext
from train.engine.run_progress import PREDICTING, TUNING
from train.engine.step import TrainingState
from train.engine.validation import validate
from train.engine.validation_loss import validation_loss

logger = logging.getLogger("train.fit")

SECONDS = 5.0
"""That the micro-batches of a phase are measured for, after the first, which waits for workers and kernels."""
FEW_IMAGES, MORE_IMAGES = 8, 40
"""Validation images of the two trials: what more of them take is what each takes, the rest is taken once."""
FEWER_IMAGES = 16
"""In place of `MORE_IMAGES`, at least, where there is little time."""


@dataclass(frozen=True)
class MeasuredPace:
    """Seconds of the slowest rank; 0 where nothing has been measured yet."""

    image_seconds: tuple[float, ...]
    """Of each phase, from one of a rank's training images to its next: loading, forward and backward pass."""
    predicting: float
    """One validation's passes over its images."""
    tuning: float
    """One validation's thresholds."""
    world: int = 1
    """Ranks that share the images."""


def measure_pace(
    context: RunContext,
    training: TrainingState,
    load: Callable[[PhasePlan], Generator[MicroBatch, None, None]],
    limit_s: float = math.inf,
    check: Callable[[MeasuredPace], None] = lambda known: None,
) -> MeasuredPace:
    """Try each phase's micro-batches and a validation; every rank calls this, and each has the same result.

    Args:
        context: of the run; how long its phases are does not matter.
        training: nothing of it changes.
        load: this rank's micro-batches of a phase.
        limit_s: seconds that all of this may take. Two micro-batches of each phase, the first of which waits for
            workers and kernels, and the smallest trials of a validation are made all the same.
        check: told on rank 0 what is known after each phase; ends the measurement with an InputError where that is
            enough to know that the run cannot be.

    Raises:
        SharedError: what `check` says.
    """
    runtime, begun = context.runtime, time.perf_counter()
    images = [0.0 for _ in context.plans]
    with context.live.stage("measuring", "measuring the pace, for --budget"), untouched(training):
        for plan in context.plans:
            most = min(SECONDS, limit_s / (2 * len(images)))  # half of the time is for the validation
            (images[plan.number],) = _of_slowest(runtime, [_seconds_per_image(context, training, plan, load, most)])
            runtime.on_main(functools.partial(check, MeasuredPace(tuple(images), 0.0, 0.0, runtime.world)))
        predicting, tuning = _of_slowest(runtime, _validation_seconds(context, training, begun + limit_s))
    return MeasuredPace(tuple(images), predicting, tuning, runtime.world)


def _of_slowest(runtime: Runtime, seconds: Sequence[float]) -> list[float]:
    """The largest of all ranks in each place; so much of them as is told, and no more is used."""
    return [float(f"{max(each):.3g}") for each in zip(*runtime.all_gather(tuple(seconds)), strict=True)]


def _seconds_per_image(
    context: RunContext,
    training: TrainingState,
    plan: PhasePlan,
    load: Callable[[PhasePlan], Generator[MicroBatch, None, None]],
    most_s: float,
) -> float:
    """From one of this rank's images to its next, measured for so many seconds."""
    set_encoder_trainable(training.model, True)
    training.wrapped.train()
    times: list[float] = []
    with contextlib.closing(load(plan)) as batches:
        before = time.perf_counter()
        for batch in batches:
            there_and_back(training, plan, batch, training.parameters)
            now = time.perf_counter()
            times.append(now - before)
            before = now
            if len(times) > 1 and sum(times[1:]) >= most_s:
                break
    measured = times[1:] or times
    return sum(measured) / len(measured) / plan.phase.micro_batch


def _validation_seconds(context: RunContext, training: TrainingState, until: float) -> tuple[float, float]:
    """Of predicting all validation images, and of tuning on them; takes fewer of them where more would last beyond
    `until`, a time of `time.perf_counter`."""
    total = len(context.rows.validation)
    few = min(FEW_IMAGES, total)
    first = _try_validation(context, training, few)  # kernels and caches
    more = min(total, _num_images(context.runtime, until, sum(first) / max(1, few), few))
    short = _try_validation(context, training, few) if few < more else (0.0, 0.0)
    long = _try_validation(context, training, more)
    each = [max(0.0, b - a) / max(1, more - (few if few < more else 0)) for a, b in zip(short, long, strict=True)]
    predicting, tuning = (b + (total - more) * per_image for b, per_image in zip(long, each, strict=True))
    return predicting, tuning


def _num_images(runtime: Runtime, until: float, image_seconds: float, others: int) -> int:
    """How many validation images can be tried after `others`, the same on all ranks."""
    left = until - time.perf_counter()
    room = left / image_seconds - others if image_seconds > 0 else math.inf
    return min(runtime.all_gather(int(min(MORE_IMAGES, max(FEWER_IMAGES, room)))))


def _try_validation(context: RunContext, training: TrainingState, num: int) -> tuple[float, float]:
    """Seconds of predicting and of tuning for so many validation images, spread over all."""
    rows = context.rows.validation
    chosen = rows[np.linspace(0, len(rows) - 1, num).round().astype(int)]
    part = replace(context, rows=replace(context.rows, validation=chosen))
    before = context.live.spent.copy()
    validate(part, training.model, tta=())
    validation_loss(part, training, training.model, context.plans[0])
    spent = context.live.spent
    return spent[PREDICTING] - before[PREDICTING], spent[TUNING] - before[TUNING]
