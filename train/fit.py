"""Train a model:  accelerate launch -m train.fit --preset NAME --data SHARDS --out RUN [--GROUP.FIELD VALUE ...]

The same command on the same --out resumes an interrupted run.
"""

import contextlib
import functools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from steel.config import Config, PhaseConfig
from steel.distributed.ending import end_program
from steel.distributed.runtime import Runtime, seed_everything, start
from steel.distributed.signals import StopSignals
from steel.errors import alike_on_all_ranks, out_of_memory_as, run_program, told_url
from steel.loading.sampler import Stream
from steel.model.network import UnifiedModel
from steel.pretrained.sources import check_there
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.storage import write_text
from steel.tracking.queue import Status
from train.arguments import FitArguments, parse_fit, share_recipe
from train.engine.batch_plan import check_processes
from train.engine.data import FoldRows, check_test_folds, resolve_crop, split_rows
from train.engine.decoded_samples import keep_decoded_samples
from train.engine.dry_run import try_phases
from train.engine.learned_folds import find_learned_from
from train.engine.loop import Loop
from train.engine.loop_state import LoopState
from train.engine.memory_advice import less_memory
from train.engine.metric_logger import MetricLogger, open_metric_logger
from train.engine.model_selection import select_model
from train.engine.run_context import RunContext
from train.engine.run_folder import RunFolder
from train.engine.run_progress import RunProgress, announce_data, announce_phases
from train.engine.state import SavedState, resume_state
from train.engine.state_writer import StateWriter
from train.engine.step import TrainingState
from train.engine.step_metrics import StepMetrics
from train.engine.top_checkpoints import TopCheckpoints
from train.engine.tracked_results import dataset_item
from train.engine.weight_initialisation import FirstWeights, find_first_weights, start_heads_at_frequencies
from train.fit_to_time import fit_to_time
from train.live_line import LiveLine
from train.logging_setup import set_up_logging
from train.preparation import build_training, load_micro_batches, network_for, open_reader, plan_run

logger = logging.getLogger("train.fit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attempt; returns the process's exit code, 0 also for an interrupted one."""
    return fit(parse_fit("train.fit", argv))


def fit(arguments: FitArguments) -> int:
    """Run one attempt in the job this process was launched into."""
    set_up_logging()
    runtime = start(arguments.config.runtime.precision)
    with StopSignals().installed() as signals, runtime.running():  # a stop ends no rank that waits for the last ones
        train_in_folder(share_recipe(arguments, runtime), runtime, signals)
    return 0


def train_in_folder(arguments: FitArguments, runtime: Runtime, signals: StopSignals) -> None:
    """One attempt at the run in `--out`; how it ended stands in its status.json."""
    folder = RunFolder(arguments.out)
    # What waits for something is closed outside of the guard: an error is said and told before.
    with contextlib.ExitStack() as closing:
        closing.callback(folder.release)
        guard = runtime.guard(folder.record_failure, hurried=lambda: signals.received)
        advice = functools.partial(_less_memory, folder, dict(enumerate(arguments.config.phases)))
        with guard, out_of_memory_as(advice), LiveLine(shown=runtime.is_main) as live:
            run_attempt(arguments, runtime, folder, signals, live, closing)


def run_attempt(
    arguments: FitArguments,
    runtime: Runtime,
    folder: RunFolder,
    signals: StopSignals,
    live: LiveLine,
    closing: contextlib.ExitStack,
) -> None:
    """Train from the newest state, if there is one, until the end or a stop signal."""
    config = arguments.config
    manifest = runtime.on_main(lambda: Manifest.load(arguments.data))
    runtime.on_main(lambda: check_processes(config.phases, runtime.world))
    network = network_for(config, manifest)
    if not folder.claim(runtime, config, manifest.digest, arguments.resume, arguments.budget.text):
        logger.info("%s is finished: see %s; choose another --out for a new run", folder.root, folder.checkpoint)
        return

    saved = resume_state(runtime, folder.states)
    if saved is None and arguments.init_from is None:
        runtime.on_main(lambda: check_there(config.model.weights))
    reader = open_reader(arguments)
    if saved is None and arguments.test_folds_given:
        check_test_folds(reader, config.folds)
    rows = split_rows(reader, config.folds)
    announce_data(config, reader, rows, runtime)
    seed_everything(config.seed)
    with alike_on_all_ranks():
        model = UnifiedModel(network)
    first = _start(arguments, runtime, folder, model, reader, rows, saved)
    context, samplers = plan_run(config, runtime, reader, rows, first, live)
    if arguments.wants_time_fitted(has_begun=saved is not None):
        arguments = _fit_length(arguments, context, samplers, model, folder)
        context, samplers = plan_run(arguments.config, runtime, reader, rows, first, live)
    _hold_decoded(context)
    state = LoopState() if saved is None else saved.loop
    with alike_on_all_ranks():
        state.check_within([plan.steps for plan in context.plans], f"--out {arguments.out}")
    announce_phases(context, state)
    metric_logger = open_metric_logger(context, folder, state)  # its tracker starts beside what follows
    closing.callback(metric_logger.finish, "failed")  # unless it has been finished by then
    training = build_training(arguments, context, model, saved)
    _try_phases_to_come(context, training, state, has_begun=saved is not None)

    top_checkpoints = _open_top_checkpoints(context, folder, saved)
    writer = _open_writer(context.config, training, folder, metric_logger, closing)
    loop = Loop(
        context=context,
        state=state,
        training=training,
        step_metrics=StepMetrics(runtime, signals, fp16=training.scaler is not None),
        metric_logger=metric_logger,
        progress=RunProgress(context, live),
        top_checkpoints=top_checkpoints,
        writer=writer,
        load=functools.partial(load_micro_batches, context, samplers),
        less_memory=lambda plan: _less_memory(folder, {plan.number: plan.phase}),
        name_suspects=functools.partial(_write_suspects, context, folder),
    )
    metric_logger.wait_until_open()  # before a process is forked
    if runtime.is_main and metric_logger.is_watched:
        metric_logger.show(dataset_item(context))
    is_finished = loop.run() and select_model(
        context, training, state, top_checkpoints, folder, metric_logger, lambda: signals.received
    )
    if writer is not None:
        writer.wait()
    metric_logger.wait_until_written()
    _end(context, folder, metric_logger, signals, is_finished)


def _open_top_checkpoints(context: RunContext, folder: RunFolder, saved: SavedState | None) -> TopCheckpoints:
    keep, ranked = max(1, context.config.optim.average_top_k), () if saved is None else saved.top_checkpoints
    return TopCheckpoints(folder.top_checkpoints, keep, ranked)


def _open_writer(
    config: Config,
    training: TrainingState,
    folder: RunFolder,
    metric_logger: MetricLogger,
    closing: contextlib.ExitStack,
) -> StateWriter | None:
    """What writes states, on rank 0."""
    if not training.runtime.is_main:
        return None
    interval = 60 * config.runtime.save_minutes or math.inf
    writer = StateWriter(folder.states, config.runtime.keep_states, interval, metric_logger.wait_until_written)
    closing.callback(writer.close)
    writer.reserve(training.tensors_to_come(), training.model.state_dict())
    return writer


def _end(
    context: RunContext, folder: RunFolder, metric_logger: MetricLogger, signals: StopSignals, is_finished: bool
) -> None:
    """Say how the attempt has ended: to the tracker, in the run folder, on the screen."""
    status: Status = "finished" if is_finished else "interrupted"
    if context.runtime.is_main:
        reason = "" if is_finished else f"stopped by {signals.name or 'a signal to another rank'}"
        folder.end(status, reason)
        if not is_finished:
            logger.info("%s; state saved, the same command goes on from here", reason)
    metric_logger.finish(status)


def _start(
    arguments: FitArguments,
    runtime: Runtime,
    folder: RunFolder,
    model: UnifiedModel,
    reader: ShardReader,
    rows: FoldRows,
    saved: SavedState | None,
) -> FirstWeights:
    """Give rank 0's `model` its first weights, which the others are given later, and write down what they are; of a run
    that goes on, what was written down.
    """
    if saved is not None:
        return runtime.on_main(lambda: _kept_first_weights(folder, arguments))
    index, train = reader.index, rows.train
    pixels = int((index.original_height[train].astype(np.int64) * index.original_width[train]).sum())
    start_heads_at_frequencies(model, index.areas[train], pixels)

    def find_and_keep() -> FirstWeights:
        config, init_from, data = arguments.config, arguments.init_from, reader.manifest
        first = find_first_weights(model, config.model, init_from, data)
        first = replace(first, learned_from=find_learned_from(config, first.learned_from, arguments.start_option, data))
        folder.keep_first_weights(first)
        return first

    return runtime.on_main(find_and_keep)


def _kept_first_weights(folder: RunFolder, arguments: FitArguments) -> FirstWeights:
    """Those that the run began with; it is said where a file elsewhere is named now, which may be another one."""
    first, init_from = folder.first_weights(), arguments.init_from
    asked = arguments.config.model.weights if init_from is None else init_from
    began = "random weights" if first.encoder is None else first.encoder.source
    if asked not in ("hub", "none") and began != told_url(asked):
        logger.info("the encoder began with %s; %s is not read again", began, arguments.start_option)
    return first


def _fit_length(
    arguments: FitArguments, context: RunContext, samplers: list[Stream], model: UnifiedModel, folder: RunFolder
) -> FitArguments:
    """`arguments` with phases that take the time asked for; the run folder keeps them."""
    trial = build_training(arguments, context, model, None)
    fitted = fit_to_time(arguments, context, trial, samplers, functools.partial(load_micro_batches, context, samplers))
    digest, budget = context.reader.manifest.digest, arguments.budget.text
    context.runtime.on_main(lambda: folder.keep_config(fitted.config, digest, budget))
    return fitted


def _hold_decoded(context: RunContext) -> None:
    passes = sum(phase.epochs for phase in context.config.phases)
    index, rows = context.reader.index, context.rows
    used = np.concatenate([index.samples(part) for part in (rows.train, rows.validation)])
    keep_decoded_samples(context.reader, used, passes, context.config.runtime, context.runtime)


def _try_phases_to_come(context: RunContext, training: TrainingState, state: LoopState, *, has_begun: bool) -> None:
    to_come = [plan for plan in context.plans if (plan.number, plan.steps) > (state.phase, state.step)]
    tiling, reader, rows = context.config.tiling, context.reader, context.rows.train
    crops = [resolve_crop(reader, rows, plan.phase.crop, tiling) for plan in to_come]
    try_phases(context.runtime, training, to_come, crops, reader.manifest.channels, has_begun=has_begun)


def _less_memory(folder: RunFolder, phases: Mapping[int, PhaseConfig]) -> str:
    """See `less_memory`."""
    return less_memory(phases, has_begun=folder.has_states)


def _write_suspects(context: RunContext, folder: RunFolder, rows: list[int]) -> None:
    """Name the samples behind non-finite losses, of all ranks, in nonfinite.json, beside those of these shards that
    earlier attempts have named; before its first state a run may begin anew on others."""
    everybody = {row for part in context.runtime.all_gather(rows) for row in part}
    if not context.runtime.is_main:
        return
    path, samples = folder.root / "nonfinite.json", context.reader.samples
    before = json.loads(path.read_text()) if path.exists() else []
    known = (one for one in before if one["row"] < len(samples))
    everybody |= {one["row"] for one in known if samples.image_id(one["row"]) == one["image_id"]}
    suspects = [{"row": row, "image_id": samples.image_id(row)} for row in sorted(everybody)]
    write_text(path, json.dumps(suspects, indent=1) + "\n")


if __name__ == "__main__":
    end_program(run_program(main))
