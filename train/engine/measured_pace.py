"""How long a run's steps and validations take, measured before the first one without changing anything."""

import contextlib
import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np

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


@dataclass(frozen=True)
class MeasuredPace:
    """Seconds, of all ranks together: those of the slowest."""

    image_seconds: tuple[float, ...]
    """Of each phase, from one training image to the next: loading, forward and backward pass."""
    predicting: float
    """One validation's passes over its images."""
    tuning: float
    """One validation's thresholds."""


def measure_pace(
    context: RunContext, training: TrainingState, load: Callable[[PhasePlan], Generator[MicroBatch, None, None]]
) -> MeasuredPace:
    """Try each phase's micro-batches and a validation; every rank calls this, and each has the same result.

    Args:
        context: of the run; how long its phases are does not matter.
        training: nothing of it changes.
        load: this rank's micro-batches of a phase.
    """
    with context.live.stage("measuring", "measuring the pace, for --budget"), untouched(training):
        images = tuple(_seconds_per_image(context, training, plan, load) for plan in context.plans)
        predicting, tuning = _validation_seconds(context, training)
    slowest = [max(each) for each in zip(*context.runtime.all_gather((*images, predicting, tuning)), strict=True)]
    *images_of_slowest, predicting, tuning = (_three_digits(seconds) for seconds in slowest)
    return MeasuredPace(tuple(images_of_slowest), predicting, tuning)


def _seconds_per_image(
    context: RunContext,
    training: TrainingState,
    plan: PhasePlan,
    load: Callable[[PhasePlan], Generator[MicroBatch, None, None]],
) -> float:
    """From one image of the global batch to the next, at this rank's speed."""
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
            if len(times) > 1 and sum(times[1:]) >= SECONDS:
                break
    measured = times[1:] or times
    return sum(measured) / len(measured) * len(plan.share) / plan.phase.batch_size


def _validation_seconds(context: RunContext, training: TrainingState) -> tuple[float, float]:
    """Of predicting all validation images, and of tuning on them."""
    total = len(context.rows.validation)
    few, more = min(FEW_IMAGES, total), min(MORE_IMAGES, total)
    _try_validation(context, training, few)  # kernels and caches
    short = _try_validation(context, training, few) if few < more else (0.0, 0.0)
    long = _try_validation(context, training, more)
    each = [max(0.0, b - a) / max(1, more - (few if few < more else 0)) for a, b in zip(short, long, strict=True)]
    predicting, tuning = (b + (total - more) * per_image for b, per_image in zip(long, each, strict=True))
    return predicting, tuning


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


def _three_digits(seconds: float) -> float:
    """So much of it is told, and no more of it is used."""
    return float(f"{seconds:.3g}")
