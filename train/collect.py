"""Runs a predictor over rows of the shards on all ranks and gathers what evaluation needs."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from steel.data.eval_loader import eval_batches
from steel.data.geometry import restore_size
from steel.data.shards import ShardReader
from steel.evaluation.decision import Decision
from steel.evaluation.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.predictor import Predictor
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

    Batches are formed in one global order and dealt to the ranks whole, so every image meets the same batch shape and
    the integers that come out are the same for any number of ranks.

    Args:
        predictor: with its views.
        reader: of the shards.
        rows: (n,) rows of the data set.
        runtime: this rank's.
        decision: also count the background under this decision; None leaves those counts out.
        batch_size: images a forward pass.
        workers: decoding processes a rank.
        progress: label of a progress bar on rank 0; None shows none.

    Returns:
        The statistics of all rows, on every rank.
    """
    bar = tqdm(total=len(rows), desc=progress, unit="img", disable=progress is None or not runtime.is_main, leave=False)

    def images() -> Iterator[ImageStatistics]:
        for batch in eval_batches(
            reader,
            rows,
            batch_size=batch_size,
            stride=predictor.stride,
            rank=runtime.rank,
            world=runtime.world,
            workers=workers,
        ):
            probs = predictor.probabilities(batch.images)
            for i, row in enumerate(batch.rows.tolist()):
                height, width = (int(size) for size in batch.sizes[i])
                truth = batch.bitmasks[i]
                mask_probs = restore_size(probs.mask_probs[i, :, :height, :width], *truth.shape)
                yield image_statistics(
                    row,
                    mask_probs,
                    probs.label_probs[i],
                    truth,
                    ignore_bit=reader.manifest.ignore_bit,
                    decision=decision,
                )
            bar.update(min(len(batch.rows) * runtime.world, len(rows) - bar.n))

    with bar:
        mine = EvaluationStatistics.from_images(images(), reader.manifest.num_classes, decision)
    return EvaluationStatistics.concat(runtime.all_gather(mine))
