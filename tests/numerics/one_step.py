"""One optimizer step on made-up micro-batches, for comparing gradients: no shards, no files."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from steel.config import Config, NetworkConfig, OptimConfig
from steel.distributed.runtime import Runtime, seed_everything
from steel.loading.train_loader import MicroBatch
from steel.model.lr_schedule import lr_at
from steel.model.network import Outputs, UnifiedModel
from train.engine.batch_plan import PhasePlan, micro_batch_share
from train.engine.step import StepSums, TrainingState
from train.presets import SMOKE

NUM_CLASSES = 3
HEIGHT, WIDTH = 32, 64
EXACT = 1e-10
"""What float64 leaves of a gradient: sums of up to 25,000 pixels, each rounded by 2**-53, that partly cancel."""


def config_of(
    batch_size: int = 12,
    micro_batch: int = 2,
    dropout: float = 0.1,
    classification: float = 0.2,
    deep_supervision: int = 0,
) -> Config:
    """The smoke recipe without clipping, so that Adam's first moment is the gradient itself."""
    loss = SMOKE.phases[0].loss
    weights = {**loss.weights, "lovasz": 0.3, "classification": classification}
    loss = replace(loss, weights=weights, class_weights=(1.0, 2.0, 0.5))
    phase = replace(SMOKE.phases[0], batch_size=batch_size, micro_batch=micro_batch, loss=loss, warmup=0.0)
    return replace(
        SMOKE,
        phases=(phase,),
        model=replace(SMOKE.model, dropout=dropout, deep_supervision=deep_supervision),
        optim=OptimConfig(ema_decay=0.9, clip_norm=1e9),
        runtime=replace(SMOKE.runtime, precision="no", workers=0),
    )


def samples(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, h, w) and targets (n, h, w): classes in many, one or no images; pixels that are invalid."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (batch_size, 1, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    targets = torch.zeros(batch_size, HEIGHT, WIDTH, dtype=torch.uint8)
    targets[::2, 4:20, 8:40] |= 1  # the first class: every other image
    targets[5, 10:30, 30:60] |= 2  # the second: one image, overlapping the first's place; the third: none
    invalid = 1 << NUM_CLASSES
    targets[3, :, 40:] = invalid  # padded on the right
    targets[batch_size - 1] = invalid  # could not be read at all
    return images, targets


def micro_batches(plan: PhasePlan) -> Iterator[MicroBatch]:
    """Those of the plan's rank in step 0."""
    phase = plan.phase
    images, targets = samples(phase.batch_size)
    for index in plan.share:
        positions = torch.arange(index * phase.micro_batch, (index + 1) * phase.micro_batch)
        yield MicroBatch(images[positions], targets[positions], positions, positions, index, 0)


class Float64Model(UnifiedModel):
    """The network in float64, where rounding cannot decide a ReLU or a maximum that is nearly a tie.

    In float32 it does, another way for each processor's kernels, and moves a gradient by half a percent.
    """

    def __init__(self, network: NetworkConfig) -> None:
        super().__init__(network)
        self.double()

    def forward_padded(self, images: torch.Tensor) -> Outputs:
        return super().forward_padded(images.double())


def build_training(runtime: Runtime, config: Config) -> TrainingState:
    seed_everything(config.seed)
    network = NetworkConfig(
        "Unet", "resnet18", NUM_CLASSES, 1, decoder_channels=(16, 8, 8), dropout=config.model.dropout
    )
    return TrainingState(runtime, config, Float64Model(network), mean=(0.5,), std=(0.2,), freeze_steps=0)


def plan_of(config: Config, rank: int = 0, world: int = 1) -> PhasePlan:
    size = config.phases[0].batch_size
    return PhasePlan(
        number=0,
        phase=replace(config.phases[0], epochs=4.0),
        epoch_length=size,
        validation_interval=size,
        first_global_step=0,
        share=micro_batch_share(config.phases[0], rank, world),
    )


def step_at(training: TrainingState, step: int, phase: int = 0) -> StepSums:
    """Take a step of the made-up phase, as phase number `phase`, always on the same micro-batches."""
    plan = replace(plan_of(training.config, training.runtime.rank, training.runtime.world), number=phase)
    return training.step(plan, step, lr_at(step, plan.steps, plan.phase), micro_batches(plan))


def gradients_of(training: TrainingState) -> dict[str, torch.Tensor]:
    """The gradient of each parameter in the first step, from Adam's first moment."""
    beta = training.optimizer.param_groups[0]["betas"][0]
    trained = (*training.model.named_parameters(), *training.stage_heads.named_parameters())
    names = {parameter: name for name, parameter in trained}
    return {names[p]: values["exp_avg"].clone() / (1 - beta) for p, values in training.optimizer.state.items()}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of any parameter's gradient, as a share of that gradient's norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / (theirs[name].norm() + 1e-6)) for name in ours)


def take_step(runtime: Runtime, config: Config) -> tuple[dict[str, torch.Tensor], float]:
    """The gradients of a first step, and its loss over all ranks."""
    training = build_training(runtime, config)
    sums = step_at(training, 0)
    assert not sums.skipped
    (total,) = runtime.sum_numbers([float(sum(sums.losses.values()))])
    return gradients_of(training), total
