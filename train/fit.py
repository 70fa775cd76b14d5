"""Train a model:  accelerate launch -m train.fit --preset NAME --data SHARDS --out RUN [--GROUP.FIELD VALUE ...]

The same command on the same --out resumes an interrupted run.
"""

import contextlib
import functools
import json
import logging
import sys
from collections.abc import Generator, Sequence

import numpy as np

from steel.config import Config, NetworkConfig
from steel.distributed.runtime import Runtime, StopSignals, seed_everything, start
from steel.errors import InputError, out_of_memory_as, run_program
from steel.loading.augment import Augmenter
from steel.loading.sampler import Sampler, build_sampler
from steel.loading.train_loader import MicroBatch, train_batches
from steel.model.network import UnifiedModel
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.storage import write_text
from steel.tracking.trackers import Status
from train.arguments import FitArguments, parse_fit
from train.engine.batch_plan import PhasePlan, micro_batch_share, plan_phases
from train.engine.data import FoldRows, resolve_crop, split_rows
from train.engine.dry_run import try_phases
from train.engine.loop import LESS_MEMORY, Loop
from train.engine.loop_state import LoopState
from train.engine.metric_logger import open_metric_logger
from train.engine.model_selection import select_model
from train.engine.run_folder import RunFolder
from train.engine.state import SavedState, StateWriter, resume_state
from train.engine.step import TrainingState
from train.engine.step_metrics import StepMetrics
from train.engine.top_checkpoints import TopCheckpoints
from train.engine.validation import Judge
from train.engine.weight_initialisation import initialise_weights, start_heads_at_frequencies
from train.logging_setup import set_up_logging

logger = logging.getLogger("train.fit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attempt; returns the process's exit code, 0 also for an interrupted one."""
    return fit(parse_fit("train.fit", argv))


def fit(arguments: FitArguments) -> int:
    """Run one attempt in the job this process was launched into."""
    set_up_logging()
    with start(arguments.config.runtime.precision).running() as runtime, StopSignals().installed() as signals:
        train_in_folder(arguments, runtime, signals)
    return 0


def train_in_folder(arguments: FitArguments, runtime: Runtime, signals: StopSignals) -> None:
    """One attempt at the run in `--out`; how it ended stands in its status.json."""
    folder = RunFolder(arguments.out)

    def record(failure: str) -> None:
        if folder.is_claimed:
            folder.end("failed", failure)

    # What waits for something is closed outside of the guard: an error is said and told before.
    with contextlib.ExitStack() as closing:
        closing.callback(folder.release)
        with runtime.guard(record, hurried=lambda: signals.received), out_of_memory_as(LESS_MEMORY):
            run_attempt(arguments, runtime, folder, signals, closing)


def run_attempt(
    arguments: FitArguments, runtime: Runtime, folder: RunFolder, signals: StopSignals, closing: contextlib.ExitStack
) -> None:
    """Train from the newest state, if there is one, until the end or a stop signal."""
    config = arguments.config
    manifest = runtime.on_main(lambda: Manifest.load(arguments.data))
    runtime.on_main(lambda: [micro_batch_share(phase, 0, runtime.world) for phase in config.phases])
    network = network_for(config, manifest)
    folder.is_claimed = runtime.on_main(lambda: folder.open(config, manifest.digest, arguments.resume))
    if not folder.is_claimed:
        logger.info("%s is finished: see %s; choose another --out for a new run", folder.root, folder.checkpoint)
        return

    reader = _open_reader(arguments)
    rows = split_rows(reader, config.folds)
    samplers = _build_samplers(config, reader, rows)
    plans = plan_phases(config.phases, [sampler.epoch_length for sampler in samplers], config.validation.every_epochs)
    state = resume_state(runtime, folder.states)
    progress = LoopState() if state is None else LoopState.from_dict(state.progress)
    progress.check_within([plan.steps for plan in plans], f"--out {arguments.out}")
    metric_logger = open_metric_logger(
        runtime, config, folder, progress, plans
    )  # its tracker starts beside what follows
    closing.callback(metric_logger.finish, "failed")  # unless it has been finished by then
    training = _build_training(arguments, runtime, reader, rows, network, plans, state)
    _announce(runtime, network, rows, plans, progress)
    to_come = [p for p in plans if (p.number, p.steps) > (progress.phase, progress.step)]
    try_phases(runtime, training, to_come, [resolve_crop(reader, rows.train, plan.phase.crop) for plan in to_come])

    store = TopCheckpoints(folder.top_checkpoints, max(1, config.optim.average_top_k))
    judge = Judge(runtime, config, reader, rows, progress, training, store, folder, metric_logger)
    writer = StateWriter(folder.states, config.runtime.keep_states) if runtime.is_main else None
    loop = Loop(
        runtime=runtime,
        config=config,
        plans=plans,
        training=training,
        state=progress,
        step_metrics=StepMetrics(
            runtime, progress, signals, config.tracking.log_every, fp16=training.scaler is not None
        ),
        metric_logger=metric_logger,
        writer=writer,
        load=functools.partial(_load, runtime, config, reader, samplers, rows),
        judge=judge,
        name_suspects=functools.partial(_write_suspects, folder, runtime, reader),
    )
    if writer is not None:
        closing.callback(writer.close)
    metric_logger.wait_until_open()  # before a process is forked
    finished = loop.run() and select_model(judge, training, plans, folder, lambda: signals.received)
    if writer is not None:
        writer.wait()
    status: Status = "finished" if finished else "interrupted"
    if runtime.is_main:
        reason = "" if finished else f"stopped by {signals.name or 'a signal to another rank'}"
        folder.end(status, reason)
        if not finished:
            logger.info("%s; state saved, the same command goes on from here", reason)
    metric_logger.finish(status)


def _open_reader(arguments: FitArguments) -> ShardReader:
    config = arguments.config.runtime
    return ShardReader(
        arguments.data,
        cache_dir=config.cache_dir,
        cache_bytes=config.cache_bytes,
        on_bad_sample=config.on_bad_sample,
        max_bad_samples=config.max_bad_samples,
    )


def _build_samplers(config: Config, reader: ShardReader, rows: FoldRows) -> list[Sampler]:
    """Which training sample stands at which position, for each phase."""
    return [
        build_sampler(
            rows.train,
            reader.index.areas,
            phase.sampling,
            seed=config.seed,
            phase=number,
            shards=reader.index.shard,
            window_shards=phase.sampling.window_shards,
        )
        for number, phase in enumerate(config.phases)
    ]


def network_for(config: Config, manifest: Manifest) -> NetworkConfig:
    """The network for this data: its classes and channels are the data's.

    Raises:
        InputError: class weights or channels that do not fit the data.
    """
    for weights in (phase.loss.class_weights for phase in config.phases):
        if weights is not None and len(weights) != manifest.num_classes:
            raise InputError(
                f"loss.class-weights: {len(weights)} weights for {manifest.num_classes} classes "
                f"({', '.join(manifest.class_names)}); give one a class, or None for equal ones"
            )
    if config.model.in_channels == 1 and manifest.channels == 3:
        raise InputError("model.in-channels 1: the shards hold colour images; use 0 or 3")
    return NetworkConfig(
        architecture=config.model.architecture,
        encoder=config.model.encoder,
        num_classes=manifest.num_classes,
        in_channels=config.model.in_channels or manifest.channels,
        decoder_channels=config.model.decoder_channels,
        dropout=config.model.dropout,
    )


def _build_training(
    arguments: FitArguments,
    runtime: Runtime,
    reader: ShardReader,
    rows: FoldRows,
    network: NetworkConfig,
    plans: Sequence[PhasePlan],
    state: SavedState | None,
) -> TrainingState:
    """The training at `state`, or at its first weights: published ones, an earlier checkpoint's or random ones."""
    config, manifest = arguments.config, reader.manifest
    seed_everything(config.seed)
    download = config.model.pretrained and state is None and arguments.init_from is None
    model = runtime.main_first(lambda: UnifiedModel(network, pretrained=download))
    if state is None:
        index = reader.index
        pixels = int((index.original_height[rows.train].astype(np.int64) * index.original_width[rows.train]).sum())
        start_heads_at_frequencies(model, index.areas[rows.train], pixels)
        if arguments.init_from is not None:
            initialise_weights(model, arguments.init_from, manifest.class_names)
    freeze_steps = round(config.optim.freeze_encoder_epochs * plans[0].epoch_length / plans[0].phase.batch_size)
    training = TrainingState(runtime, config, model, manifest.mean, manifest.std, freeze_steps)
    if state is not None:
        try:
            training.load_tensors(state.tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"--out {arguments.out}: its newest state does not fit this network ({error}); choose another folder"
            ) from error
    return training


def _load(
    runtime: Runtime,
    config: Config,
    reader: ShardReader,
    samplers: Sequence[Sampler],
    rows: FoldRows,
    plan: PhasePlan,
    step: int,
) -> Generator[MicroBatch, None, None]:
    """This rank's micro-batches of a phase, from `step` on."""
    augmenter = Augmenter(
        config.augment,
        resolve_crop(reader, rows.train, plan.phase.crop),
        plan.phase.sampling,
        reader.manifest.num_classes,
        reader.manifest.ignore_bit,
    )
    return train_batches(
        reader,
        samplers[plan.number],
        augmenter,
        plan.micro_batches(step, runtime.rank, runtime.world),
        seed=config.seed,
        phase=plan.number,
        workers=config.runtime.workers,
        pin_memory=runtime.device.type == "cuda",
    )


def _announce(
    runtime: Runtime, network: NetworkConfig, rows: FoldRows, plans: Sequence[PhasePlan], progress: LoopState
) -> None:
    logger.info("%s with %s, %d classes", network.architecture, network.encoder, network.num_classes)
    logger.info("%d training, %d validation, %d test images", len(rows.train), len(rows.validation), len(rows.test))
    precision = runtime.accelerator.mixed_precision
    logger.info("%d process(es) on %s, mixed precision: %s", runtime.world, runtime.device, precision)
    for plan in plans:
        logger.info("phase %s: %d steps of %d images", plan.phase.name, plan.steps, plan.phase.batch_size)
    if (progress.phase, progress.step) != (0, 0):
        logger.info("resuming at phase %s, step %d", plans[progress.phase].phase.name, progress.step)


def _write_suspects(folder: RunFolder, runtime: Runtime, reader: ShardReader, rows: list[int]) -> None:
    """Name the samples behind non-finite losses, of all ranks, in nonfinite.json."""
    everybody = sorted({row for part in runtime.all_gather(rows) for row in part})
    if runtime.is_main:
        suspects = [{"row": row, "image_id": reader.index.image_id(row)} for row in everybody]
        write_text(folder.root / "nonfinite.json", json.dumps(suspects, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run_program(main))
