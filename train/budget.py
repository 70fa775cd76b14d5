"""How long a run may be: `--budget 30m` in time, `--budget 8passes` in passes over its images.

A time is fitted to the pace that `train.engine.measured_pace` finds before the first step; here is the arithmetic.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from steel.config import Config, PhaseConfig
from steel.errors import InputError, counted
from train.engine.batch_plan import PhasePlan, most_images
from train.engine.measured_pace import MeasuredPace
from train.engine.pace import FORWARD_SHARE, Work
from train.live_line import format_duration

USED = 0.9
"""Share of a time that is planned for: a short measurement does not see all that slows a run down."""
PASSES = (*(number / 10 for number in range(10, 100)), *map(float, range(10, 121)))
"""What a time may come to. More of them say little new."""
MEASURING = 0.1
"""Share of a time that finding the pace, before it, may take."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = r"(\d{1,9}(?:\.\d+)?)"
"""With more digits it could be infinite, or come to infinitely many steps."""
_TIME = re.compile(_NUMBER + "([smhd])")


@dataclass(frozen=True)
class Budget:
    """What `--budget` says: one of the two, or neither where it is not given."""

    passes: float | None = None
    """Over the training images, in all phases together."""
    seconds: float | None = None
    """From the first step to the end, with validations and the choice of the model."""
    text: str = field(default="", compare=False)
    """As it was given."""


def parse_budget(text: str) -> Budget:
    """`90s`, `30m`, `1h30m`, `2d` as a time, `8passes` as passes.

    Raises:
        InputError: neither, nothing at all, or a number of more than nine digits before the point.
    """
    passes = re.fullmatch(_NUMBER + "passes", text)
    if passes is not None and float(passes[1]) > 0:
        return Budget(passes=float(passes[1]), text=text)
    parts = _TIME.findall(text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise InputError(
            f"--budget {text}: give a time, as 90s, 30m, 1h30m or 2d, or passes, as 8passes, of nine digits at most"
        )
    return Budget(seconds=seconds, text=text)


def scale_to(config: Config, passes: float) -> Config:
    """`config` with phases of so many passes together, in the proportion that they had."""
    total = sum(phase.epochs for phase in config.phases)
    phases = tuple(replace(phase, epochs=max(0.01, round(phase.epochs * passes / total, 2))) for phase in config.phases)
    parts = " and ".join(f"{phase.epochs:g} of {phase.name}" for phase in phases)
    reason = f"{counted(passes, 'pass')} in place of {total:g}: {parts}, in the preset's proportion"
    return replace(config, phases=phases, reasons={**config.reasons, "budget": reason})


def seconds_of_steps(plans: Sequence[PhasePlan], pace: MeasuredPace) -> float:
    """How long the steps of a run take."""
    return sum(plan.steps * _step_seconds(plan.phase, pace.image_seconds[plan.number], pace.world) for plan in plans)


def _step_seconds(phase: PhaseConfig, image_seconds: float, world: int) -> float:
    """Of a step of all ranks; of five micro-batches, two ranks need the time of three."""
    return most_images(phase, world) * image_seconds


def seconds_of(work: Work, pace: MeasuredPace) -> float:
    """How long a run takes from its first step on."""
    validations = sum(plan.validations_after(0) for plan in work.plans)
    return (
        seconds_of_steps(work.plans, pace)
        + validations * (pace.predicting + pace.tuning)
        + work.final_validations * (pace.predicting * work.final_views + pace.tuning)
    )


def trainable(plan_at: Callable[[float], object], choices: Sequence[float] = PASSES) -> Sequence[float]:
    """Those of `choices` that the run's ranks can train: with fewer passes `--preset auto` makes smaller batches, which
    may have no micro-batch for each rank.

    Args:
        plan_at: plans a run of so many passes; an InputError where it cannot be trained, nor any shorter one.
        choices: numbers of passes, ascending.

    Raises:
        InputError: not even the most; as `plan_at` says.
    """

    def can_be_trained(passes: float) -> bool:
        try:
            plan_at(passes)
        except InputError:
            return False
        return True

    found = choices[bisect_left(choices, True, key=can_be_trained) :]
    if not found:
        plan_at(choices[-1])
    return found


def fit_passes(
    batches_for: Callable[[float], list[int]],
    steps_for: Callable[[float], float],
    seconds_for: Callable[[float], float],
    budget: float,
    world: int,
    choices: Sequence[float] = PASSES,
) -> float:
    """The most passes that take at most `USED` of a budget.

    Args:
        batches_for: batch sizes of a run of so many passes, never smaller with more of them.
        steps_for: seconds of its steps alone; more with more passes as long as the batches are the same, while a
            larger batch, which ranks may share better, can make them fewer.
        seconds_for: seconds of all of it; validations may be fewer with more passes.
        budget: seconds.
        world: number of ranks.
        choices: numbers of passes that they can train, ascending.

    Raises:
        InputError: none takes so little; says how long the fewest take.
    """
    for alike in _of_equal_batches(batches_for, choices):
        most = bisect_right(alike, USED * budget, key=steps_for)
        fitting = next((passes for passes in reversed(alike[:most]) if seconds_for(passes) <= USED * budget), None)
        if fitting is not None:
            return fitting
    raise _too_short(budget, seconds_for(choices[0]), choices[0], world, "measured here")


def _of_equal_batches(batches_for: Callable[[float], list[int]], choices: Sequence[float]) -> Iterator[Sequence[float]]:
    """`choices` in parts whose runs have the same batches, the largest first."""
    while choices:
        start = bisect_left(choices, batches_for(choices[-1]), key=batches_for)
        yield choices[start:]
        choices = choices[:start]


def refuse_hopeless(training: float, whole: float, budget: float, fewest: float, world: int) -> None:
    """See, before all is measured, whether the steps of the shortest run alone take longer than a budget.

    Args:
        training: seconds of so many of them as are known.
        whole: seconds of all of that run, as `completed` guesses it.
        budget: seconds.
        fewest: passes that the ranks can train.
        world: number of ranks.

    Raises:
        InputError: they do; says how long all of it takes, about.
    """
    if training > USED * budget:
        how = "of the steps measured here, with validations guessed by their pixels"
        raise _too_short(budget, whole, fewest, world, how)


def completed(pace: MeasuredPace, work: Work) -> MeasuredPace:
    """A pace with a guess, by pixels, of what has not been measured yet: phases to come and the passes of validations;
    the tuning of thresholds is left out."""
    pixels = [each / plan.phase.batch_size for each, plan in zip(work.step_pixels, work.plans, strict=True)]
    known = [seconds / each for seconds, each in zip(pace.image_seconds, pixels, strict=True) if seconds > 0]
    if not known:
        return pace
    images = tuple(seconds or known[-1] * each for seconds, each in zip(pace.image_seconds, pixels, strict=True))
    predicting = pace.predicting or FORWARD_SHARE * known[-1] * work.validation_pixels / pace.world
    return replace(pace, image_seconds=images, predicting=predicting)


def _too_short(budget: float, whole: float, fewest: float, world: int, how: str) -> InputError:
    """With what would be enough: of `whole` seconds, at a pace that was found as `how` says."""
    minutes = math.ceil(whole / USED / 60)
    enough = f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60}m"
    return InputError(
        f"--budget: {format_duration(budget)} is too short: {counted(fewest, 'pass')} over the training images, with "
        f"validations and the choice of the model, needs about {enough} in all at the pace {how}; give --budget "
        f"{enough}, or choose a smaller network, smaller crops or fewer validation images{_why_no_fewer(fewest, world)}"
    )


def _why_no_fewer(fewest: float, world: int) -> str:
    """What else helps where shorter runs were left out; see `trainable`."""
    if fewest == PASSES[0]:
        return ""
    ranks = f" or fewer than {world} processes (--processes N)" if world > 1 else ""
    return f"; fewer passes have smaller batches, which take smaller micro-batches (--phases.N.micro-batch){ranks}"


def explain_fit(config: Config, passes: float, budget: float, pace: MeasuredPace, seconds: float) -> str:
    """The choice as a sentence, with all that it was made of."""
    images = ", ".join(
        f"{1000 * _step_seconds(phase, each, pace.world) / phase.batch_size:.3g} ms an image of {phase.name}"
        for each, phase in zip(pace.image_seconds, config.phases, strict=True)
    )
    most = ", the most that a time is fitted to" if passes == PASSES[-1] else ""
    return (
        f"{counted(passes, 'pass')}{most}, for {format_duration(budget)}: measured before the first step, {images} and "
        f"{pace.predicting + pace.tuning:g} s a validation come to {format_duration(seconds)} of it"
    )
