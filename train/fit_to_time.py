"""Fits a run's schedule to the time of `--budget`, at the pace that is measured before its first step."""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from steel.config import Config
from steel.distributed.runtime import Runtime
from steel.errors import InputError
from steel.loading.sampler import Sampler
from steel.loading.train_loader import MicroBatch
from steel.machine import told_load
from steel.model.network import UnifiedModel
from steel.pretrained.stem import Normalisation
from steel.shards.format import Manifest
from train.arguments import FitArguments
from train.budget import (
    MEASURING,
    PASSES,
    completed,
    explain_fit,
    fit_passes,
    refuse_hopeless,
    seconds_of,
    seconds_of_steps,
    trainable,
)
from train.engine.batch_plan import PhasePlan, plan_phases
from train.engine.data import split_rows
from train.engine.measured_pace import MeasuredPace, measure_pace
from train.engine.pace import Work
from train.engine.run_context import RunContext
from train.engine.run_progress import announce_reasons, work_of
from train.engine.step import TrainingState
from train.engine.weight_initialisation import FirstWeights
from train.live_line import LiveLine, format_duration
from train.preparation import build_training, load_micro_batches, network_for, open_reader, plan_run

logger = logging.getLogger("train.fit")


def fit_to_time(
    arguments: FitArguments,
    context: RunContext,
    training: TrainingState,
    samplers: Sequence[Sampler],
    load: Callable[[PhasePlan, int], Generator[MicroBatch, None, None]],
) -> FitArguments:
    """`arguments` with the configuration whose run takes their budget; every rank calls this.

    Args:
        arguments: with a budget in seconds.
        context: of the run, but for its length.
        training: for the measurement alone; the network that it holds stays as it is.
        samplers: of each phase.
        load: this rank's micro-batches of a phase from a step on.

    Raises:
        SharedError: too little time for the shortest run that these ranks can train; says how much that needs.
    """
    runtime, budget = context.runtime, arguments.budget.seconds
    assert budget is not None, "nothing to fit to"
    lengths = [sampler.epoch_length for sampler in samplers]

    @functools.cache
    def config_at(passes: float) -> Config:
        return arguments.at_passes(passes, context.reader)

    def plans_at(passes: float) -> tuple[PhasePlan, ...]:
        phases, every = config_at(passes).phases, config_at(passes).validation.every_epochs
        return plan_phases(phases, lengths, every, rank=runtime.rank, world=runtime.world)

    choices = runtime.on_main(lambda: trainable(plans_at, PASSES))

    def batches_at(passes: float) -> list[int]:
        return [phase.batch_size for phase in config_at(passes).phases]

    def steps_at(pace: MeasuredPace, passes: float) -> float:
        return seconds_of_steps(plans_at(passes), pace)

    def work_at(passes: float) -> Work:
        return work_of(replace(context, config=config_at(passes), plans=plans_at(passes)))

    def seconds_at(pace: MeasuredPace, passes: float) -> float:
        return seconds_of(work_at(passes), pace)

    def check(known: MeasuredPace) -> None:
        fewest = choices[0]
        whole = seconds_at(completed(known, work_at(fewest)), fewest)
        with _reasons_of_the_refused(config_at(fewest)):
            refuse_hopeless(steps_at(known, fewest), whole, budget, fewest, runtime.world)

    logger.info(
        "measuring the pace, for --budget %s: micro-batches of each phase and validations of a few images, for %s at "
        "most, or as long as the fewest of them take%s",
        *(arguments.budget.text, format_duration(MEASURING * budget), told_load()),
    )
    pace = measure_pace(context, training, lambda plan: load(plan, 0), MEASURING * budget, check)
    runtime.accelerator.free_memory()

    def fit() -> Config:
        steps_for, seconds_for = functools.partial(steps_at, pace), functools.partial(seconds_at, pace)
        with _reasons_of_the_refused(config_at(choices[0])):
            passes = fit_passes(batches_at, steps_for, seconds_for, budget, runtime.world, choices)
        config = config_at(passes)
        reason = explain_fit(config, passes, budget, pace, seconds_for(passes))
        return replace(config, reasons={**config.reasons, "budget": reason})

    return replace(arguments, config=runtime.on_main(fit))


@contextlib.contextmanager
def _reasons_of_the_refused(config: Config) -> Iterator[None]:
    """Before the block's refusal of a configuration, why that is as it is: what could be smaller is seen there."""
    try:
        yield
    except InputError:
        announce_reasons(config)
        raise


def measure_run(arguments: FitArguments, runtime: Runtime, live: LiveLine) -> tuple[Work, MeasuredPace]:
    """What a run has to do, and its pace with random weights, which are as fast as any; nothing is written."""
    manifest = Manifest.load(arguments.data)
    network = network_for(arguments.config, manifest)
    reader = open_reader(arguments)
    inputs = Normalisation(manifest.mean, manifest.std).for_channels(network.in_channels)
    rows, first = split_rows(reader, arguments.config.folds), FirstWeights(None, inputs)
    context, samplers = plan_run(arguments.config, runtime, reader, rows, first, live)
    training = build_training(arguments, context, UnifiedModel(network), None)
    pace = measure_pace(context, training, lambda plan: load_micro_batches(context, samplers, plan, 0))
    runtime.accelerator.free_memory()
    return work_of(context), pace
