"""Runs a predictor over rows of the shards on all ranks and gathers what evaluation needs."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from steel.decision import Decision
from steel.distributed.runtime import Runtime
from steel.images.geometry import restore_size
from steel.inference.device_histograms import counting_targets, histograms_on_device
from steel.inference.predictor import Predictor
from steel.loading.eval_loader import EvalBatch, eval_batches
from steel.machine import Workers, count_evaluation_workers
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
    targets: Tensor | None
    """See `counting_targets`; None where the host counts."""


def collect_statistics(
    predictor: Predictor,
    reader: ShardReader,
    rows: np.ndarray,
    runtime: Runtime,
    *,
    decision: Decision | None,
    workers: Workers,
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
        workers: decoding processes per rank; see `count_evaluation_workers`.
        on_progress: is told how many of how many images are done, as if all ranks were equally fast.
        keeper: is shown every image of this rank.

    Returns:
        The statistics of all rows, on every rank.
    """
    batches = _batches(predictor, reader, rows, workers, rank=runtime.rank, world=runtime.world)
    images = _image_statistics(predictor, batches, decision, reader.manifest.ignore_bit, keeper)

    def counted() -> Iterator[ImageStatistics]:
        for done, image in enumerate(images, start=1):
            yield image
            on_progress(min(done * runtime.world, len(rows)), len(rows))

    mine = EvaluationStatistics.from_images(counted(), reader.manifest.num_classes, decision)
    return EvaluationStatistics.concat(runtime.all_gather(mine))


def show_images(
    predictor: Predictor, reader: ShardReader, rows: np.ndarray, keeper: GalleryKeeper, *, workers: Workers
) -> Iterator[int]:
    """Show a keeper some images, on this rank alone; gives the row of each that it has seen.

    Args:
        predictor: as of `collect_statistics`.
        reader: of the shards.
        rows: (n,) rows of the data set.
        keeper: is shown every image.
        workers: as of `collect_statistics`.
    """
    batches = _batches(predictor, reader, rows, workers, rank=0, world=1)
    for image in _image_statistics(predictor, batches, None, reader.manifest.ignore_bit, keeper):
        yield image.row


def _batches(
    predictor: Predictor, reader: ShardReader, rows: np.ndarray, workers: Workers, *, rank: int, world: int
) -> Iterator[EvalBatch]:
    return eval_batches(
        reader,
        rows,
        pixels_per_pass=predictor.pixels_per_pass,
        budget=predictor.tiling.budget,
        views=predictor.views_at_once,
        stride=predictor.stride,
        rank=rank,
        world=world,
        workers=count_evaluation_workers(workers, device=predictor.device.type, remote=reader.cache is not None),
        pin_memory=predictor.device.type == "cuda",
    )


def _image_statistics(
    predictor: Predictor,
    batches: Iterator[EvalBatch],
    decision: Decision | None,
    ignore_bit: int | None,
    keeper: GalleryKeeper | None,
) -> Iterator[ImageStatistics]:
    """Those of the images of `batches`."""
    counts_there = decision is None and keeper is None and _counts_on_device(predictor)
    waiting: deque[_Truth] = deque()  # of the batches that are with the predictor, in order
    begun: deque[_Truth] = deque()  # of those whose passes are launched

    def reduce(mask_probs: Tensor, label_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Histograms where they can be made on the device, else the probabilities."""
        truth = waiting.popleft()
        begun.append(truth)
        if truth.targets is None:
            return mask_probs, label_probs
        targets = truth.targets.to(mask_probs.device, non_blocking=True)
        return histograms_on_device(mask_probs, targets), label_probs

    images = _images_of(batches, waiting, predictor.num_classes if counts_there else None, ignore_bit)
    for found, label_probs in predictor.stream(images, reduce):
        truth = begun.popleft()
        for i, row in enumerate(truth.rows):
            labels = label_probs[i].numpy().copy()
            if truth.targets is not None:
                yield ImageStatistics(row, found[i].numpy().astype(np.uint32), labels)
                continue
            (height, width), bitmask = truth.sizes[i], truth.bitmasks[i]
            mask_probs = restore_size(found[i, :, :height, :width].numpy(), *bitmask.shape)
            image = image_statistics(row, mask_probs, labels, bitmask, ignore_bit=ignore_bit, decision=decision)
            if keeper is not None:
                keeper.offer(image, mask_probs, bitmask)
            yield image


def _counts_on_device(predictor: Predictor) -> bool:
    """Where the probabilities are on a GPU; on a CPU the host's own way is faster."""
    return predictor.device.type == "cuda"


def _images_of(
    batches: Iterator[EvalBatch], waiting: deque[_Truth], num_classes: int | None, ignore_bit: int | None
) -> Iterator[Tensor]:
    """The images of each batch; what else is known of them is put into `waiting`.

    Args:
        batches: of the loader.
        waiting: see above.
        num_classes: C, to count on the device what is stored at its original size; None counts nothing there.
        ignore_bit: of the bitmasks.
    """
    for batch in batches:
        sizes = batch.sizes.tolist()
        targets = None
        is_original = all([*mask.shape] == size for mask, size in zip(batch.bitmasks, sizes, strict=True))
        if num_classes is not None and is_original:
            num, _, height, width = batch.images.shape
            targets = counting_targets(batch.bitmasks, (num, height, width), num_classes, ignore_bit)
            targets = targets.pin_memory() if batch.images.is_pinned() else targets
        # Copies, so that the loader has its buffer back while this batch is under way.
        bitmasks = [mask.copy() for mask in batch.bitmasks] if targets is None else []
        waiting.append(_Truth(batch.rows.tolist(), sizes, bitmasks, targets))
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
