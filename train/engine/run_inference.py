"""Runs a predictor over rows of the shards on all ranks and gathers what evaluation needs."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from steel.decision import Decision
from steel.distributed.runtime import Runtime
from steel.images.geometry import restore_size
from steel.inference.predictor import Predictor
from steel.loading.eval_loader import EvalBatch, eval_batches
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.reports.gallery import GalleryKeeper, Kept, choose
from steel.shards.reader import ShardReader


class _Truth(NamedTuple):
    """Of the images of a batch that is under way."""

    rows: list[int]
    sizes: list[list[int]]
    """Height and width of each as it is stored."""
    bitmasks: list[np.ndarray]
    """Of each, at its original size."""


def collect_statistics(
    predictor: Predictor,
    reader: ShardReader,
    rows: np.ndarray,
    runtime: Runtime,
    *,
    decision: Decision | None,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    keeper: GalleryKeeper | None = None,
) -> EvaluationStatistics:
    """Score every row exactly once, whatever the world size.

    Batches are formed in one global order and dealt to the ranks whole, and their shape is that which the predictor
    gives an image of that size anywhere: the integers that come out are the same for any number of ranks, and the same
    as in the predictions of the images themselves.

    Args:
        predictor: with its views and its pixels per forward pass.
        reader: of the shards.
        rows: (n,) rows of the data set.
        runtime: this rank's.
        decision: also count the background under this decision; None leaves those counts out.
        workers: decoding processes per rank.
        on_progress: is told how many of how many images are done, as if all ranks were equally fast.
        keeper: is shown every image of this rank.

    Returns:
        The statistics of all rows, on every rank.
    """
    batches = eval_batches(
        reader,
        rows,
        pixels_per_pass=predictor.pixels_per_pass,
        stride=predictor.stride,
        rank=runtime.rank,
        world=runtime.world,
        workers=workers,
    )
    images = _image_statistics(predictor, batches, decision, reader.manifest.ignore_bit, keeper)

    def counted() -> Iterator[ImageStatistics]:
        for done, image in enumerate(images, start=1):
            yield image
            on_progress(min(done * runtime.world, len(rows)), len(rows))

    mine = EvaluationStatistics.from_images(counted(), reader.manifest.num_classes, decision)
    return EvaluationStatistics.concat(runtime.all_gather(mine))


def _image_statistics(
    predictor: Predictor,
    batches: Iterator[EvalBatch],
    decision: Decision | None,
    ignore_bit: int | None,
    keeper: GalleryKeeper | None,
) -> Iterator[ImageStatistics]:
    """Those of the images of `batches`."""
    begun: deque[_Truth] = deque()  # of the batches that are with the predictor, in order
    for probs in predictor.stream_probabilities(_images_of(batches, begun)):
        truth = begun.popleft()
        for i, (row, (height, width), bitmask) in enumerate(zip(*truth, strict=True)):
            mask_probs = restore_size(probs.mask_probs[i, :, :height, :width], *bitmask.shape)
            image = image_statistics(
                row, mask_probs, probs.label_probs[i], bitmask, ignore_bit=ignore_bit, decision=decision
            )
            if keeper is not None:
                keeper.offer(image, mask_probs, bitmask)
            yield image


def _images_of(batches: Iterator[EvalBatch], begun: deque[_Truth]) -> Iterator[Tensor]:
    """The images of each batch; what else is known of them is put into `begun`."""
    for batch in batches:
        # Copies, so that the loader has its buffer back while this batch is under way.
        begun.append(_Truth(batch.rows.tolist(), batch.sizes.tolist(), [b.copy() for b in batch.bitmasks]))
        yield batch.images


def gather_kept(keeper: GalleryKeeper, runtime: Runtime, wanted: Mapping[str, Sequence[int]]) -> Kept:
    """What all ranks' keepers have kept, on every rank; of each kind the first of all.

    Args:
        keeper: this rank's.
        runtime: this rank's.
        wanted: further kinds with their rows, all of which the keepers were told to keep.
    """
    rows = {**choose(runtime.all_gather(keeper.ranking())), **wanted}
    mine = keeper.layers({row for some in rows.values() for row in some})
    layers = {row: one for part in runtime.all_gather(mine) for row, one in part.items()}
    regions = [region for part in runtime.all_gather(keeper.regions) for region in part]
    return Kept(rows, layers, sorted(regions))
