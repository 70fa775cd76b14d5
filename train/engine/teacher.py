"""The model that a training learns from, besides its labels."""

import logging

import torch
from torch import Tensor

from steel.checkpoint import Checkpoint, load_checkpoint
from steel.distributed.runtime import Runtime
from steel.errors import alike_on_all_ranks, told_url
from steel.extensions import require_extensions
from steel.inference.predictor import build_models
from steel.model.distillation import SoftTargets
from steel.model.folding import fold_batch_norms, shorten_weights
from steel.model.heads import CLASSIFICATION, SEGMENTATION
from steel.model.network import scale_and_shift, scale_pixels
from steel.precision import DTYPES
from steel.shards.selection import check_same_task, check_stored_sizes
from steel.shards.split_roles import seen_folds
from train.engine.learned_folds import warn_of_seen
from train.engine.run_context import RunContext

logger = logging.getLogger("train.fit")


class Teacher:
    """Says what it sees in the crops that the network is trained on, as they were augmented; never trained itself."""

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime, *, channels_last: bool) -> None:
        """Args:
        checkpoint: one network, or several whose probabilities are averaged.
        runtime: whose device and precision it takes.
        channels_last: the order of memory in which it takes images.
        """
        self._runtime = runtime
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        models = [fold_batch_norms(model) for model in build_models(checkpoint)]
        for model in models:
            shorten_weights(model, DTYPES[runtime.accelerator.mixed_precision])
        self._models = [model.to(runtime.device).to(memory_format=self._layout) for model in models]
        self._scale, self._shift = scale_and_shift(checkpoint.mean, checkpoint.std, runtime.device)

    def __call__(self, images: Tensor) -> SoftTargets:
        """Its probabilities for (m, c, h, w) uint8 on the device; waits for nothing."""
        with torch.no_grad(), self._runtime.accelerator.autocast():
            inputs = scale_pixels(images, self._scale, self._shift).contiguous(memory_format=self._layout)
            outputs = [model(inputs) for model in self._models]
        return SoftTargets(*(_average([each[head] for each in outputs]) for head in (SEGMENTATION, CLASSIFICATION)))


def _average(logits: list[Tensor]) -> Tensor:
    return torch.stack([torch.sigmoid(one.float()) for one in logits]).mean(dim=0)


def load_teacher(context: RunContext) -> Teacher | None:
    """The configuration's teacher on this rank's device; None without one.

    Raises:
        InputError: not a usable checkpoint.
        SharedError: one for other classes, channels, depth or sizes than the data's.
    """
    config, reader = context.config, context.reader
    if not config.distill.teacher:
        return None
    path = config.distill.teacher
    checkpoint, name = load_checkpoint(path), f"--distill.teacher {told_url(path)}"
    require_extensions(checkpoint.provenance, name)
    network = checkpoint.network
    with alike_on_all_ranks():
        check_same_task(name, checkpoint.class_names, network.in_channels, checkpoint.depth, reader.manifest)
        check_stored_sizes(name, checkpoint.input_size, reader, context.rows.train)
    warn_of_seen(name, seen_folds(checkpoint.folds, checkpoint.provenance), config.folds, reader.manifest)
    members = "1 network" if checkpoint.members == 1 else f"{checkpoint.members} networks"
    logger.info("learning from %s (%s), %.0f %% of the loss", name, members, 100 * config.distill.share)
    return Teacher(checkpoint, context.runtime, channels_last=config.runtime.channels_last)
