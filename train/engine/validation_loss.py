"""The training loss of images that are not trained on, to lay beside that of those that are."""

import contextlib
from collections.abc import Generator

import numpy as np
import torch

from steel.config import SamplingConfig
from steel.loading.augment import Augmenter
from steel.loading.sampler import build_sampler
from steel.loading.train_loader import MicroBatch, train_batches
from steel.machine import count_workers
from steel.model.network import UnifiedModel
from train.engine.batch_plan import MicroBatchRange, PhasePlan
from train.engine.data import resolve_crop
from train.engine.device_batches import device_batches
from train.engine.run_context import RunContext
from train.engine.run_progress import PREDICTING
from train.engine.step import TrainingState

MOST_IMAGES = 512
"""So many of the validation images, always the same, say enough of a curve."""


def validation_loss(
    context: RunContext, training: TrainingState, model: UnifiedModel, plan: PhasePlan
) -> dict[str, float]:
    """Weighted loss of each head on crops of validation images, as a phase's but neither scaled nor augmented.

    The crops are the same each time and for any number of ranks; all ranks take part, and each has the result.

    Args:
        context: of the run.
        training: computes the losses.
        model: whose weights are judged, the same on every rank; left in evaluation mode.
        plan: the phase whose loss, crop and micro-batch count.
    """
    rows, runtime = context.reader.index.samples(context.rows.validation), context.runtime
    num = min(len(rows), MOST_IMAGES)
    sums: dict[str, torch.Tensor] = {}
    model.eval()
    stage = context.live.stage(PREDICTING, "validation loss")
    crops = contextlib.closing(device_batches(_crops(context, plan, rows, num), runtime.device))
    with stage, torch.no_grad(), runtime.accelerator.autocast(), crops as batches:
        for batch in batches:
            soft = training.ask_teacher(batch.images)  # else the two curves would be of different losses
            losses = training.micro_batch_losses.of(
                model, batch.images, batch.targets, plan.phase.loss, batch.pairs, soft
            )
            for head, loss in losses.items():
                sums[head] = sums.get(head, torch.zeros((), device=loss.device)) + loss.mean(1).double().sum()
    mine = {head: total.item() / num for head, total in sums.items()}
    everybodys = runtime.all_gather(mine)  # a rank may have had no image
    return {head: sum(each.get(head, 0.0) for each in everybodys) for head in max(everybodys, key=len)}


def _crops(context: RunContext, plan: PhasePlan, rows: np.ndarray, num: int) -> Generator[MicroBatch, None, None]:
    """This rank's crops, of `num` of the samples `rows`, in micro-batches of the phase's size."""
    config, reader, runtime = context.config, context.reader, context.runtime
    of_phase = plan.phase.sampling
    sampling = SamplingConfig(defect_crop=of_phase.defect_crop, max_black=of_phase.max_black)
    size = plan.phase.micro_batch
    sampler = build_sampler(rows, reader.samples.areas, sampling, seed=config.seed, phase=plan.number)
    crop = resolve_crop(reader, context.rows.train, plan.phase.crop, config.tiling)
    starts = range(0, num, size)[runtime.rank :: runtime.world]
    places = [MicroBatchRange(0, 0, range(start, min(start + size, num))) for start in starts]
    augmenter = Augmenter({}, crop, sampling, reader.manifest.num_classes, reader.manifest.ignore_bit)
    on_gpu = runtime.device.type == "cuda"
    return train_batches(
        *(reader, sampler, augmenter, places),
        seed=config.seed,
        phase=plan.number,
        workers=count_workers(config.runtime.workers, runtime.cores),
        pin_memory=on_gpu,
        pin_in_place=on_gpu,
    )
