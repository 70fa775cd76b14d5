"""Runs a predictor over rows of the shards on all ranks and adds up what evaluation needs."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from steel.data.loader import eval_batches
from steel.data.shards import ShardReader
from steel.evaluation.decision import Decision
from steel.evaluation.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.predictor import Predictor, restore_size
from steel.runtime import Runtime


def collect_statistics(
    predictor: Predictor,
    reader: ShardReader,
    rows: np.ndarray,
    runtime: Runtime,
    *,
    decision: Decision | None,
    batch_size: int,
    workers: int,
    progress: str | None = None,
) -> EvaluationStatistics:
    """Score every row exactly once, whatever the world size.

    Batches are formed in one global order and dealt to the ranks whole, so every image meets the same batch shape and the
    integers that come out are the same for any number of ranks. Each rank fills in its own images; one sum joins them.

    Args:
        rows: (n,) rows of the data set, ascending.
        decision: also count the background under this decision; None leaves those counts out.
        progress: label of a progress bar on rank 0; None shows none.

    Returns:
        The statistics of all rows, on every rank.
    """
    batches = eval_batches(
        reader,
        rows,
        batch_size=batch_size,
        stride=predictor.stride,
        rank=runtime.rank,
        world=runtime.world,
        workers=workers,
    )
    statistics = EvaluationStatistics.empty(rows, len(reader.manifest.class_names), background=decision is not None)
    place = {int(row): i for i, row in enumerate(rows)}
    bar = tqdm(total=len(rows), desc=progress, unit="img", disable=progress is None or not runtime.is_main, leave=False)
    with bar:
        for batch in batches:
            probs = predictor.probabilities(batch.images)
            for i, row in enumerate(batch.rows):
                height, width = batch.sizes[i]
                truth = batch.bitmasks[i]
                mask_probs = restore_size(probs.mask_probs[i, :, :height, :width], *truth.shape)
                statistics.fill(
                    place[int(row)], mask_probs, probs.label_probs[i], truth, reader.manifest.ignore_bit, decision
                )
            bar.update(len(batch.rows) * runtime.world)
    return statistics.map_arrays(runtime.all_reduce_sum)


def role_of(folds: Sequence[int], used: dict[str, list[int]]) -> str:
    """What `folds` were to a checkpoint whose folds had the roles `used`: the worst of them counts.

    `train` if any was trained on, else `calibration` if the decision was found on any, else `test`.
    """
    for role in ("train", "calibration"):
        if set(folds) & set(used.get(role, [])):
            return role
    return "test"
