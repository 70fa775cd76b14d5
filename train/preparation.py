"""What a run is made of before its first step: reader, network, plan, training state and micro-batches."""

from collections.abc import Generator, Sequence

from steel.config import Config, NetworkConfig
from steel.distributed.runtime import Runtime
from steel.errors import InputError, alike_on_all_ranks
from steel.loading.augment import Augmenter
from steel.loading.hard_sampler import favour_missed
from steel.loading.sampler import Stream, build_sampler
from steel.loading.train_loader import MicroBatch, train_batches
from steel.machine import count_workers
from steel.model.network import UnifiedModel
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from train.arguments import FitArguments
from train.engine.batch_plan import PhasePlan, plan_phases
from train.engine.data import FoldRows, resolve_crop
from train.engine.run_context import RunContext
from train.engine.run_progress import announce_hard
from train.engine.state import SavedState
from train.engine.step import TrainingState
from train.engine.teacher import load_teacher
from train.engine.weight_initialisation import FirstWeights
from train.live_line import LiveLine


def open_reader(arguments: FitArguments) -> ShardReader:
    """Of the shards of a run, cached and forgiving as it is told to be."""
    config = arguments.config.runtime
    return ShardReader(
        arguments.data,
        cache_dir=config.cache_dir,
        cache_bytes=config.cache_bytes,
        on_bad_sample=config.on_bad_sample,
        max_bad_samples=config.max_bad_samples,
    )


def _build_samplers(config: Config, reader: ShardReader, rows: FoldRows) -> list[Stream]:
    """Which training sample stands at which position, for each phase."""
    return [
        build_sampler(
            reader.index.samples(rows.train),
            reader.samples.areas,
            phase.sampling,
            seed=config.seed,
            phase=number,
            shards=reader.samples.shard,
        )
        for number, phase in enumerate(config.phases)
    ]


@alike_on_all_ranks()
def network_for(config: Config, manifest: Manifest) -> NetworkConfig:
    """The network for this data: its classes and channels are the data's.

    Raises:
        SharedError: class weights or channels that do not fit the data.
    """
    for weights in (phase.loss.class_weights for phase in config.phases):
        if weights is not None and len(weights) != manifest.num_classes:
            raise InputError(
                f"loss.class-weights: {len(weights)} weights for {manifest.num_classes} classes "
                f"({', '.join(manifest.class_names)}); give one per class, or None for equal ones"
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
        heads=config.model.heads,
    )


def frozen_steps(epochs: float, first: PhasePlan) -> int:
    """How many steps of the first phase leave the encoder as it is; all of them at most."""
    return min(first.steps, round(epochs * first.epoch_length / first.phase.batch_size))


def build_training(
    arguments: FitArguments, context: RunContext, model: UnifiedModel, saved: SavedState | None
) -> TrainingState:
    """The training at `saved`, or at the first weights that `model` has on rank 0."""
    config, inputs = context.config, context.first_weights.inputs
    first = context.plans[0]
    freeze_steps = frozen_steps(config.optim.freeze_encoder_epochs, first)
    teacher = load_teacher(context)
    training = TrainingState(context.runtime, config, model, inputs.mean, inputs.std, freeze_steps, teacher)
    if saved is not None:
        try:
            training.load_tensors(saved.tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"--out {arguments.out}: its newest state does not fit this network ({error}); choose another folder"
            ) from error
    return training


def load_micro_batches(
    context: RunContext, samplers: Sequence[Stream], plan: PhasePlan, step: int, missed: Sequence[float | None] = ()
) -> Generator[MicroBatch, None, None]:
    """This rank's micro-batches of a phase, from `step` on; each is held until it is on the device.

    Args:
        context: of the run.
        samplers: the order of each phase.
        plan: of the phase.
        step: the first.
        missed: by the last validation before the phase; see `steel.loading.hard_sampler`.
    """
    config, reader = context.config, context.reader
    sampler = favour_missed(samplers[plan.number], missed)
    announce_hard(plan, sampler, missed, reader.manifest.class_names)
    augmenter = Augmenter(
        config.augment,
        resolve_crop(reader, context.rows.train, plan.phase.crop, config.tiling, plan.phase.sampling.zoom[0]),
        plan.phase.sampling,
        reader.manifest.num_classes,
        reader.manifest.ignore_bit,
    )
    return train_batches(
        reader,
        sampler,
        augmenter,
        plan.micro_batches(step),
        seed=config.seed,
        phase=plan.number,
        workers=count_workers(config.runtime.workers, context.runtime.cores),
        pin_memory=context.runtime.device.type == "cuda",
        pin_in_place=True,
    )


@alike_on_all_ranks()
def plan_run(
    config: Config, runtime: Runtime, reader: ShardReader, rows: FoldRows, first: FirstWeights, live: LiveLine
) -> tuple[RunContext, list[Stream]]:
    """The run's surroundings, and which training sample stands at which position in each of its phases.

    Raises:
        SharedError: too few micro-batches for the ranks, or samples that a phase asks for and the folds lack.
    """
    samplers = _build_samplers(config, reader, rows)
    plans = plan_phases(
        config.phases,
        [sampler.epoch_length for sampler in samplers],
        config.validation.every_epochs,
        rank=runtime.rank,
        world=runtime.world,
    )
    return RunContext(runtime, config, reader, rows, plans, first, live), samplers
