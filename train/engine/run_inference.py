"""Runs a predictor over rows of the shards on all ranks and gathers what evaluation needs."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steel.decision import Decision
from steel.distributed.runtime import Runtime
from steel.errors import NotFiniteError, SharedNotFiniteError
from steel.images.geometry import restore_size
from steel.inference.ahead import map_ahead
from steel.inference.device_counts import answers_on_device, histograms_on_device
from steel.inference.predictor import Predictor
from steel.loading.eval_loader import BITMASKS, EvalBatch, Truth, eval_batches
from steel.machine import Workers, count_evaluation_workers
from steel.metrics.confusion import MOST_ANSWERED
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics, counted_statistics, image_statistics
from steel.model.host_copy import HostCopy, beside
from steel.reports.gallery import GalleryKeeper, Kept, choose
from steel.shards.reader import ShardReader

_THREADS = 4
"""That decide and count while the network runs."""


class _UnderWay(NamedTuple):
    """A batch that is with the predictor."""

    rows: list[int]
    sizes: list[list[int]]
    """Height and width of each image as it is stored."""
    bitmasks: list[np.ndarray]
    """Of each, at its original size; empty where only the device looks at them."""
    targets: Tensor | None
    """See `EvalBatch.targets`; None where the host counts."""
    held: Tensor | None
    """What a GPU may still copy: a loader's workers must not fill it again before."""


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

    Raises:
        SharedNotFiniteError: names an image of which the network says nothing. To score it as clean could make of a
            broken network the best of all.
    """
    workers = _count_workers(workers, predictor, reader, runtime)
    truth = _truth(predictor, decision, shows=keeper is not None)
    batches = _batches(predictor, reader, rows, truth, workers, rank=runtime.rank, world=runtime.world)
    images = _image_statistics(
        *(predictor, batches, decision, reader.manifest.ignore_bit, keeper), name_of=reader.index.image_id
    )

    def counted() -> Iterator[ImageStatistics]:
        for done, image in enumerate(images, start=1):
            yield image
            on_progress(min(done * runtime.world, len(rows)), len(rows))

    mine: EvaluationStatistics | NotFiniteError
    try:
        mine = EvaluationStatistics.from_images(counted(), reader.manifest.num_classes, decision)
    except NotFiniteError as error:  # of this rank's images alone: the others wait for what it has to say
        mine = error
    everybodys = runtime.all_gather(mine)
    faults = [str(said) for said in everybodys if isinstance(said, NotFiniteError)]
    if faults:
        raise SharedNotFiniteError(faults[0])
    statistics = EvaluationStatistics.concat([part for part in everybodys if isinstance(part, EvaluationStatistics)])
    return replace(statistics, groups=np.asarray(reader.index.group)[statistics.rows])


def show_images(
    predictor: Predictor,
    reader: ShardReader,
    rows: np.ndarray,
    runtime: Runtime,
    keeper: GalleryKeeper,
    *,
    workers: Workers,
) -> Iterator[int]:
    """Show a keeper some images, on this rank alone; gives the row of each that it has seen.

    Args:
        predictor: as of `collect_statistics`.
        reader: of the shards.
        rows: (n,) rows of the data set.
        runtime: this rank's.
        keeper: is shown every image.
        workers: as of `collect_statistics`.

    Raises:
        NotFiniteError: names an image of which the network says nothing.
    """
    workers = _count_workers(workers, predictor, reader, runtime)
    truth = _truth(predictor, None, shows=True)
    batches = _batches(predictor, reader, rows, truth, workers, rank=0, world=1)
    ignored, name_of = reader.manifest.ignore_bit, reader.index.image_id
    for image in _image_statistics(predictor, batches, None, ignored, keeper, name_of=name_of):
        yield image.row


def _count_workers(asked: Workers, predictor: Predictor, reader: ShardReader, runtime: Runtime) -> int:
    is_remote = reader.cache is not None
    return count_evaluation_workers(asked, runtime.cores, device=predictor.device.type, remote=is_remote)


def _truth(predictor: Predictor, decision: Decision | None, *, shows: bool) -> Truth:
    """What batches have of it: pixels are counted on the device where they can be, but tiles come together on the host.

    Args:
        predictor: that is to see them.
        decision: that is to be applied, if any.
        shows: somebody looks at the bitmasks.
    """
    if not _counts_on_device(predictor) or (decision is not None and predictor.num_classes > MOST_ANSWERED):
        return BITMASKS
    return Truth(lambda height, width: not predictor.takes_tiles(height, width), keeps_bitmasks=shows)


def _batches(
    predictor: Predictor,
    reader: ShardReader,
    rows: np.ndarray,
    truth: Truth,
    workers: int,
    *,
    rank: int,
    world: int,
) -> Iterator[EvalBatch]:
    on_gpu = predictor.device.type == "cuda"
    return eval_batches(
        reader,
        rows,
        pixels_per_pass=predictor.pixels_per_pass,
        budget=predictor.tiling.budget,
        views=predictor.views_at_once,
        stride=predictor.stride,
        rank=rank,
        world=world,
        workers=workers,
        truth=truth,
        pin_memory=on_gpu,
        pin_in_place=on_gpu,
    )


def _image_statistics(
    predictor: Predictor,
    batches: Iterator[EvalBatch],
    decision: Decision | None,
    ignore_bit: int | None,
    keeper: GalleryKeeper | None,
    *,
    name_of: Callable[[int], str],
) -> Iterator[ImageStatistics]:
    """Those of the images of `batches`; decided, counted and looked at on threads while the network runs.

    Raises:
        NotFiniteError: with the name of the image's row.
    """

    def weigh(passed: _Passed) -> ImageStatistics:
        row, label_probs, bitmask, get_mask_probs, counts = passed
        if counts is None:
            assert bitmask is not None, f"row {row}: counted nowhere"
            mask_probs = restore_size(get_mask_probs(), *bitmask.shape)
            get_mask_probs = partial(np.asarray, mask_probs)
            image = image_statistics(row, mask_probs, label_probs, bitmask, ignore_bit=ignore_bit, decision=decision)
        else:
            image = counted_statistics(row, counts.histograms, label_probs, counts.answers, decision)
        if keeper is not None:
            assert bitmask is not None, f"row {row}: its truth was let go"
            keeper.offer(image, bitmask, get_mask_probs)
        return image

    images = _passed_images(predictor, batches, decision, shows=keeper is not None, name_of=name_of)
    with ThreadPoolExecutor(_THREADS, "evaluated-image") as pool:
        yield from map_ahead(pool, _THREADS, weigh, images, lambda passed: passed.num_pixels, at_once=True)


class _Counts(NamedTuple):
    """What the device counted of an image."""

    histograms: np.ndarray
    """(C, 2, 256) uint32."""
    answers: np.ndarray | None
    """(C + 2, 2**C) under a decision; see `answers_confusion`."""


class _Passed(NamedTuple):
    """An image that the network has seen."""

    row: int
    label_probs: np.ndarray
    """(1 + C,) uint8."""
    bitmask: np.ndarray | None
    """(H, W), the truth at the original size; None where only the device looked at it."""
    get_mask_probs: Callable[[], np.ndarray]
    """Gives (C, h, w) uint8 at the stored size; from a GPU they travel then, if the keeper was said to show any."""
    counts: _Counts | None
    """None where the host counts."""

    @property
    def num_pixels(self) -> int:
        """Of the truth."""
        return 0 if self.bitmask is None else self.bitmask.size


def _passed_images(
    predictor: Predictor,
    batches: Iterator[EvalBatch],
    decision: Decision | None,
    *,
    shows: bool,
    name_of: Callable[[int], str],
) -> Iterator[_Passed]:
    """The images of `batches` with what the network says of them.

    Where a batch has targets the device counts. Then the maps stay there, but those that somebody looks at.
    """
    waiting: deque[_UnderWay] = deque()  # batches that are with the predictor, in order
    begun: deque[tuple[_UnderWay, Tensor | None]] = deque()  # those whose passes are launched, with maps that stay

    def reduce(mask_probs: Tensor, label_probs: Tensor) -> tuple[Tensor, ...]:
        """Label probabilities, then maps, or what the device counts in their place."""
        batch = waiting.popleft()
        if batch.targets is None:
            begun.append((batch, None))
            return label_probs, mask_probs
        begun.append((batch, mask_probs if shows else None))
        targets = batch.targets.to(mask_probs.device, non_blocking=True)
        counts = histograms_on_device(mask_probs, targets)
        if decision is None:
            return label_probs, counts
        return label_probs, counts, answers_on_device(mask_probs, targets, decision.pixel_thresholds.tolist())

    images = _images_of(batches, waiting)
    fetch = _fetcher(predictor.device)
    for found in predictor.stream(images, reduce):
        batch, maps = begun.popleft()
        is_finite = found[-1].numpy()
        label_probs = found[0].numpy().copy()
        histograms = answers = None
        if batch.targets is None:
            maps = found[1]
        else:
            histograms = found[1].numpy().astype(np.uint32)
            answers = None if decision is None else found[2].numpy().copy()
        for i, (row, (height, width)) in enumerate(zip(batch.rows, batch.sizes, strict=True)):
            if not is_finite[i]:
                raise predictor.not_finite(name_of(row))
            counts = None if histograms is None else _Counts(histograms[i], None if answers is None else answers[i])
            bitmask = batch.bitmasks[i] if batch.bitmasks else None
            yield _Passed(row, label_probs[i], bitmask, partial(fetch, maps, np.s_[i, :, :height, :width]), counts)


def _fetcher(device: torch.device) -> Callable[[Tensor | None, tuple[int | slice, ...]], np.ndarray]:
    """Gives a part of maps that are made; from a GPU beside what it is making meanwhile, not behind it."""
    aside = torch.cuda.Stream(device) if device.type == "cuda" else None

    def fetch(maps: Tensor | None, part: tuple[int | slice, ...]) -> np.ndarray:
        assert maps is not None, "maps were let go"
        if aside is None or maps.device.type == "cpu":
            return maps[part].numpy()
        with beside(aside):
            return HostCopy(maps[part]).tensor().numpy()

    return fetch


def _counts_on_device(predictor: Predictor) -> bool:
    """Where the probabilities are on a GPU; on a CPU the host's own way is faster."""
    return predictor.device.type == "cuda"


def _images_of(batches: Iterator[EvalBatch], waiting: deque[_UnderWay]) -> Iterator[Tensor]:
    """The images of each batch; what else is known of them is put into `waiting`."""
    for batch in batches:
        # Copies: threads look at them when the loader has long had its buffer back.
        bitmasks = [mask.copy() for mask in batch.bitmasks]
        held = batch.images if batch.images.is_pinned() else None
        waiting.append(_UnderWay(batch.rows.tolist(), batch.sizes.tolist(), bitmasks, batch.targets, held))
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
