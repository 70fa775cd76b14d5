"""Batches for training and evaluation: uint8 pixels and bit-packed targets, until they are on the device.

What a batch holds depends on the data, the order and the seed alone: not on the number of workers, ranks, or where
training was resumed. A worker hands over one flat buffer of bytes a batch; the tensors are views of it.
"""

import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch

from steel.data.augment import Augmenter
from steel.data.geometry import pad_image
from steel.data.order import Order, sample_seeds
from steel.data.shards import BadSampleError, Sample, ShardReader
from steel.data.workers import DEFAULT_START, StartMethod, new_buffer, ordered_map

logger = logging.getLogger(__name__)

_LOOKAHEAD = 32
"""Micro-batches whose samples are drawn in one go."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Training samples of consecutive positions."""

    images: torch.Tensor
    """(m, c, h, w) uint8; colour is laid out channels-last."""
    targets: torch.Tensor
    """(m, h, w) uint8, or int32 for more than 7 classes: bits 0..C-1 = classes, bit C = invalid."""
    rows: torch.Tensor
    """(m,) int64, rows of the index."""
    positions: torch.Tensor
    """(m,) int64."""
    index: int
    """Which micro-batch of its step this is."""
    bad_samples: int
    """Samples that could not be read: each shows its neighbour's image, and its target is wholly invalid."""


class MicroBatchPlace(Protocol):
    """What a micro-batch consists of; `train.schedule` makes them."""

    @property
    def index(self) -> int: ...

    @property
    def positions(self) -> range: ...


@dataclass(frozen=True, eq=False)
class EvalBatch:
    """Whole images of one padded size; every batch of a size has the same shape."""

    images: torch.Tensor
    """(B, c, H, W) uint8: mirrored to the right and below up to H x W; images after the n-th are zero."""
    rows: torch.Tensor
    """(n,) int64, n <= B: the images that count."""
    bitmasks: list[np.ndarray]
    """The truth of each, at the image's *original* size; uint8 or uint16."""
    sizes: torch.Tensor
    """(n, 2) int64: height and width of each stored image, the part of `images` that is not padding."""
    bad_samples: int
    """Images that could not be read and are left out."""


def train_batches(
    reader: ShardReader,
    order: Order,
    augmenter: Augmenter,
    micro_batches: Iterable[MicroBatchPlace],
    *,
    seed: int,
    phase: int,
    workers: int,
    pin_memory: bool = False,
    start_method: StartMethod = DEFAULT_START,
) -> Generator[MicroBatch, None, None]:
    """Training micro-batches in the order of `micro_batches`.

    Args:
        reader: of the shards; its `on_bad_sample` says what a damaged sample does.
        order: which sample stands at which position.
        augmenter: crop and augmentation.
        micro_batches: this rank's, taken some way ahead.
        seed: of the run.
        phase: number of the phase.
        workers: processes that read and augment; 0 does so in this one, with the same result.
        pin_memory: hand over pinned memory, for copies to the GPU beside computation.
        start_method: of the workers.

    Raises:
        BadSampleError: a damaged sample, unless the reader skips; or too many of them.
    """
    work = _TrainWork(reader, augmenter, seed, phase)
    items = _train_items(order, micro_batches)
    for made in ordered_map(
        work, items, workers=workers, pin_memory=pin_memory, on_start=reader.prefetch, start_method=start_method
    ):
        reader.count_bad(made.bad)
        targets, images = _train_views(made.buffer, len(made.item.rows), augmenter, reader)
        rows, positions = torch.from_numpy(made.item.rows), torch.from_numpy(made.item.positions)
        yield MicroBatch(images.permute(0, 3, 1, 2), targets, rows, positions, made.item.number, len(made.bad))


class _TrainItem(NamedTuple):
    """What a worker is asked for: the draws of one micro-batch."""

    number: int
    positions: np.ndarray
    rows: np.ndarray
    focuses: np.ndarray


class _TrainMade(NamedTuple):
    buffer: torch.Tensor
    item: _TrainItem
    bad: tuple[BadSampleError, ...]


def _train_items(order: Order, micro_batches: Iterable[MicroBatchPlace]) -> Iterator[_TrainItem]:
    """The draws of each micro-batch; many at once, for arithmetic on a few numbers costs as much as on thousands."""
    places = iter(micro_batches)
    while chunk := list(islice(places, _LOOKAHEAD)):
        positions = np.concatenate([np.asarray(place.positions) for place in chunk])
        rows, focuses = order.draw_many(positions)
        ends = np.cumsum([len(place.positions) for place in chunk])[:-1]
        parts = (np.split(values, ends) for values in (positions, rows, focuses))
        for place, *draws in zip(chunk, *parts, strict=True):
            yield _TrainItem(place.index, *draws)


def _train_views(
    buffer: torch.Tensor, num: int, augmenter: Augmenter, reader: ShardReader
) -> tuple[torch.Tensor, torch.Tensor]:
    """A micro-batch's flat bytes as targets (m, h, w) and images (m, h, w, c)."""
    (height, width), channels = augmenter.crop, reader.manifest.channels
    kind = torch.uint8 if augmenter.num_classes <= 7 else torch.int32
    end = num * height * width * kind.itemsize
    return buffer[:end].view(kind).view(num, height, width), buffer[end:].view(num, height, width, channels)


class _TrainWork:
    """Reads, crops and augments the samples of a micro-batch."""

    def __init__(self, reader: ShardReader, augmenter: Augmenter, seed: int, phase: int) -> None:
        self.reader, self.augmenter, self.seed, self.phase = reader, augmenter, seed, phase

    def __call__(self, item: _TrainItem) -> _TrainMade:
        num, area = len(item.rows), self.augmenter.crop[0] * self.augmenter.crop[1]
        target_size = 1 if self.augmenter.num_classes <= 7 else 4
        buffer = new_buffer(num * area * (target_size + self.reader.manifest.channels))
        targets, images = (view.numpy() for view in _train_views(buffer, num, self.augmenter, self.reader))
        seeds = sample_seeds(self.seed, self.phase, item.positions)
        bad: dict[int, BadSampleError] = {}
        for i, (row, focus) in enumerate(zip(item.rows.tolist(), item.focuses.tolist(), strict=True)):
            try:
                sample = self.reader.read(row)
            except BadSampleError as error:
                if self.reader.on_bad_sample == "fail":
                    raise
                bad[i] = error
                continue
            image, targets[i] = self.augmenter(sample.image, sample.bitmask, seed=int(seeds[i]), focus=focus)
            images[i] = image.reshape(images.shape[1:])
        for i in bad:
            good = next((j % num for j in range(i + 1, i + num) if j % num not in bad), None)
            images[i] = 0 if good is None else images[good]
            targets[i] = self.augmenter.invalid
        return _TrainMade(buffer, item, tuple(bad.values()))


def expand_targets(targets: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed targets (m, h, w) as masks (m, C, h, w) and valid pixels (m, 1, h, w), float32 0/1, on their device."""
    bits = torch.arange(num_classes + 1, device=targets.device, dtype=targets.dtype)
    planes = (targets[:, None] >> bits[None, :, None, None]) & 1
    return planes[:, :num_classes].float(), 1.0 - planes[:, num_classes:].float()


def eval_batches(
    reader: ShardReader,
    rows: np.ndarray,
    *,
    batch_size: int,
    stride: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    start_method: StartMethod = DEFAULT_START,
) -> Generator[EvalBatch, None, None]:
    """This rank's share of `rows`, each image whole and exactly once over all ranks.

    Images are grouped by their padded size, a function of the image alone; groups are cut into batches in one global
    order, and whole batches are dealt to the ranks in turn: each batch is the same for every world size.

    Args:
        reader: of the shards; its `on_bad_sample` says what a damaged sample does.
        rows: (n,) index rows.
        batch_size: B.
        stride: padded sizes are multiples of it.
        rank: of this process.
        world: number of processes.
        workers: processes that read; 0 reads in this one.
        pin_memory: hand over pinned memory.
        start_method: of the workers.

    Raises:
        BadSampleError: a damaged sample, unless the reader skips; or too many of them.
    """
    items = plan_eval_batches(reader, rows, batch_size=batch_size, stride=stride)[rank::world]
    work = _EvalWork(reader, batch_size)
    for made in ordered_map(
        work, items, workers=workers, pin_memory=pin_memory, on_start=reader.prefetch, start_method=start_method
    ):
        reader.count_bad(made.bad)
        yield made.batch()


class EvalItem(NamedTuple):
    """One batch of an evaluation: which rows, padded to which size."""

    rows: tuple[int, ...]
    height: int
    width: int


def plan_eval_batches(reader: ShardReader, rows: np.ndarray, *, batch_size: int, stride: int) -> list[EvalItem]:
    """All batches of an evaluation, in the one order that every world size shares."""
    sizes = -(-np.stack([reader.index.height[rows], reader.index.width[rows]], axis=1) // stride) * stride
    items: list[EvalItem] = []
    order = np.lexsort((np.arange(len(rows)), sizes[:, 1], sizes[:, 0]))
    for (height, width), group in groupby(order.tolist(), key=lambda i: (int(sizes[i, 0]), int(sizes[i, 1]))):
        members = [int(rows[i]) for i in group]
        starts = range(0, len(members), batch_size)
        items += [EvalItem(tuple(members[start : start + batch_size]), height, width) for start in starts]
    return items


class _EvalMade(NamedTuple):
    buffer: torch.Tensor
    """The images (B, H, W, c), then the bitmasks one after another."""
    shape: tuple[int, int, int, int]
    rows: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    original_sizes: tuple[tuple[int, int], ...]
    mask_kind: np.dtype
    bad: tuple[BadSampleError, ...]

    def batch(self) -> EvalBatch:
        start = int(np.prod(self.shape))
        bitmasks = []
        for height, width in self.original_sizes:
            end = start + height * width * self.mask_kind.itemsize
            bitmasks.append(self.buffer[start:end].numpy().view(self.mask_kind).reshape(height, width))
            start = end
        images = self.buffer[: int(np.prod(self.shape))].view(self.shape).permute(0, 3, 1, 2)
        sizes = torch.tensor(self.sizes, dtype=torch.int64).reshape(-1, 2)
        return EvalBatch(images, torch.tensor(self.rows, dtype=torch.int64), bitmasks, sizes, len(self.bad))


class _EvalWork:
    """Reads and pads the images of one evaluation batch."""

    def __init__(self, reader: ShardReader, batch_size: int) -> None:
        self.reader, self.batch_size = reader, batch_size

    def __call__(self, item: EvalItem) -> _EvalMade:
        samples: list[Sample] = []
        bad: list[BadSampleError] = []
        for row in item.rows:
            try:
                samples.append(self.reader.read(row))
            except BadSampleError as error:
                if self.reader.on_bad_sample == "fail":
                    raise
                bad.append(error)
        truths = [original_bitmask(self.reader, sample) for sample in samples]
        kind = truths[0].dtype if truths else np.dtype(np.uint8)
        shape = (self.batch_size, item.height, item.width, self.reader.manifest.channels)
        end = int(np.prod(shape))
        buffer = new_buffer(end + sum(truth.nbytes for truth in truths))
        images = buffer[:end].view(shape).numpy()
        for image, sample in zip(images, samples, strict=False):
            image[:] = pad_image(sample.image, item.height, item.width).reshape(image.shape)
        images[len(samples) :] = 0
        for truth in truths:
            buffer[end : end + truth.nbytes].numpy()[:] = truth.ravel().view(np.uint8)
            end += truth.nbytes
        sizes = tuple((s.image.shape[0], s.image.shape[1]) for s in samples)
        shapes = tuple((truth.shape[0], truth.shape[1]) for truth in truths)
        return _EvalMade(buffer, shape, tuple(s.row for s in samples), sizes, shapes, kind, tuple(bad))


def original_bitmask(reader: ShardReader, sample: Sample) -> np.ndarray:
    """A sample's bitmask at the size its image had before `data_prep --resize`; enlarged pixel by pixel."""
    at = reader.index.place(sample.row)
    if sample.bitmask.shape == (at.original_height, at.original_width):
        return sample.bitmask
    return cv2.resize(sample.bitmask, (at.original_width, at.original_height), interpolation=cv2.INTER_NEAREST_EXACT)
