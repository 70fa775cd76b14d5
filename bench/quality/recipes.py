"""How one network and six are trained: from scratch as the demo once was, or on pretrained weights as `--preset auto`
is today."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from steel.config import ModelConfig, OptimConfig, PhaseConfig, TransformConfig
from steel.shards.reader import ShardReader
from train.auto_recipe import auto_recipe
from train.fitting import read_facts
from train.presets import DEMO
from train.recipe_facts import MachineClass

PASSES = 8
"""The budget that auto is told, on which the batch depends: short trainings have small ones."""
_MACHINE = MachineClass("cpu", 8)
"""Of whatever machine this runs on: the section's recipe does not change with it."""


@dataclass(frozen=True)
class Recipe:
    """What all networks of a comparison have in common."""

    model: ModelConfig
    optim: OptimConfig
    augment: Mapping[str, TransformConfig]
    phase: PhaseConfig
    """The only one; its batch is one micro-batch."""
    told: str
    """In words: what every side has."""


_CROPS = DEMO.phases[0]
FROM_SCRATCH = Recipe(
    DEMO.model,
    replace(DEMO.optim, ema_decay=0.97),
    {**DEMO.augment, "brightness_contrast": TransformConfig(0.5)},
    replace(_CROPS, micro_batch=_CROPS.batch_size, loss=replace(_CROPS.loss, class_weights=(3.0, 2.0, 2.0, 1.0))),
    "class weights, brightness and contrast and a moving average, which the demo's recipe has lost since,",
)
"""The demo's crops, with what it once had."""


def on_pretrained(data: Path, weights: Path) -> Recipe:
    """The first phase of `--preset auto` for these shards on a CPU, with its network from pretrained weights.

    Args:
        data: shards.
        weights: file of the encoder's.
    """
    config = auto_recipe(read_facts(ShardReader(str(data))), _MACHINE, PASSES)
    phase, decoder = config.phases[0], "-".join(map(str, config.model.decoder_channels or ()))
    loss = ", ".join(f"{name} {weight:g}" for name, weight in phase.loss.weights.items())
    order = {"natural": "natural order", "balanced": "each class drawn as often as clean images"}[phase.sampling.order]
    told = (
        f"{config.model.encoder} from ImageNet weights with a decoder of {decoder} channels, the first phase of "
        f"`--preset auto` on {PASSES} passes and a CPU (losses {loss}, absent {phase.loss.absent:g}; rate {phase.lr:g}"
        f", rising for {phase.warmup:.0%} of the steps; {order}; {', '.join(config.augment)}; no moving average, equal "
        "class weights)"
    )
    return Recipe(
        replace(config.model, weights=str(weights.absolute())),
        config.optim,
        config.augment,
        replace(phase, micro_batch=phase.batch_size),
        told,
    )
