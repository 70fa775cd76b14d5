"""Evaluation batches: every image whole and exactly once, in batches that are the same for every number of ranks."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from steel.images.geometry import images_per_pass, pad_image
from steel.loading.buffers import Allocate, ordered_batches
from steel.loading.workers import DEFAULT_START, StartMethod
from steel.shards.reader import BadSampleError, Sample, ShardReader


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


def eval_batches(
    reader: ShardReader,
    rows: np.ndarray,
    *,
    pixels_per_pass: int,
    budget: int | None = None,
    views: int = 1,
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
        pixels_per_pass: what B follows from, see `images_per_pass`.
        budget: likewise.
        views: likewise.
        stride: padded sizes are multiples of it.
        rank: of this process.
        world: number of processes.
        workers: processes that read; 0 reads in this one.
        pin_memory: hand over pinned memory.
        start_method: of the workers.

    Raises:
        BadSampleError: a damaged sample, unless the reader skips; or too many of them.
    """
    items = plan_eval_batches(reader, rows, pixels_per_pass=pixels_per_pass, budget=budget, views=views, stride=stride)[
        rank::world
    ]
    work = _EvalWork(reader)
    samples_per_item = max((len(item.rows) for item in items), default=1) * len(reader.samples) / len(reader.index)
    for buffer, made in ordered_batches(
        work,
        items,
        buffer_bytes=max(map(work.num_bytes, items), default=0),
        workers=workers,
        pin_memory=pin_memory,
        prepare=work.ask_for,
        ahead=math.ceil(reader.num_ahead() / samples_per_item),
        on_start=reader.prefetch,
        start_method=start_method,
    ):
        reader.count_bad(made.bad)
        yield made.batch(buffer)


class EvalItem(NamedTuple):
    """One batch of an evaluation: which rows, padded to which size, in a batch of how many places."""

    rows: tuple[int, ...]
    height: int
    width: int
    places: int


def plan_eval_batches(
    reader: ShardReader,
    rows: np.ndarray,
    *,
    pixels_per_pass: int,
    budget: int | None = None,
    views: int = 1,
    stride: int,
) -> list[EvalItem]:
    """All batches of an evaluation, in the one order that every world size shares."""
    sizes = -(-np.stack([reader.index.height[rows], reader.index.width[rows]], axis=1) // stride) * stride
    items: list[EvalItem] = []
    order = np.lexsort((np.arange(len(rows)), sizes[:, 1], sizes[:, 0]))
    for (height, width), group in groupby(order.tolist(), key=lambda i: (int(sizes[i, 0]), int(sizes[i, 1]))):
        members = [int(rows[i]) for i in group]
        places = images_per_pass(height, width, pixels_per_pass, budget, views)
        starts = range(0, len(members), places)
        items += [EvalItem(tuple(members[start : start + places]), height, width, places) for start in starts]
    return items


class _EvalMade(NamedTuple):
    shape: tuple[int, int, int, int]
    """Of the images (B, H, W, c), with which the buffer begins; the bitmasks follow one after another."""
    rows: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    original_sizes: tuple[tuple[int, int], ...]
    mask_kind: np.dtype
    bad: tuple[BadSampleError, ...]

    def batch(self, buffer: torch.Tensor) -> EvalBatch:
        """Images and bitmasks as views of the buffer that a worker filled."""
        start = int(np.prod(self.shape))
        bitmasks = []
        for height, width in self.original_sizes:
            end = start + height * width * self.mask_kind.itemsize
            bitmasks.append(buffer[start:end].numpy().view(self.mask_kind).reshape(height, width))
            start = end
        images = buffer[: int(np.prod(self.shape))].view(self.shape).permute(0, 3, 1, 2)
        sizes = torch.tensor(self.sizes, dtype=torch.int64).reshape(-1, 2)
        return EvalBatch(images, torch.tensor(self.rows, dtype=torch.int64), bitmasks, sizes, len(self.bad))


class _EvalWork:
    """Reads and pads the images of one evaluation batch."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def num_bytes(self, item: EvalItem) -> int:
        """Size of the buffer of a batch, if none of its samples is bad."""
        index, rows = self.reader.index, list(item.rows)
        pixels = np.multiply(index.original_height[rows], index.original_width[rows], dtype=np.int64).sum()
        truth_bytes = int(pixels) * self.reader.mask_kind.itemsize
        return item.places * item.height * item.width * self.reader.manifest.channels + truth_bytes

    def ask_for(self, item: EvalItem) -> None:
        """Have the images of a batch brought into memory."""
        for row in item.rows:
            self.reader.ask_for(self.reader.index.tiles(row))

    def __call__(self, item: EvalItem, allocate: Allocate) -> tuple[torch.Tensor, _EvalMade]:
        samples: list[Sample] = []
        bad: list[BadSampleError] = []
        for row in item.rows:
            try:
                samples.append(self.reader.read(row, original_mask=True))
            except BadSampleError as error:
                if self.reader.on_bad_sample == "fail":
                    raise
                bad.append(error)
        truths = [sample.bitmask for sample in samples]
        kind = truths[0].dtype if truths else np.dtype(np.uint8)
        shape = (item.places, item.height, item.width, self.reader.manifest.channels)
        end = int(np.prod(shape))
        buffer = allocate(end + sum(truth.nbytes for truth in truths))
        images = buffer[:end].view(shape).numpy()
        for image, sample in zip(images, samples, strict=False):
            image[:] = pad_image(sample.image, item.height, item.width).reshape(image.shape)
        images[len(samples) :] = 0
        for truth in truths:
            buffer[end : end + truth.nbytes].numpy()[:] = truth.ravel().view(np.uint8)
            end += truth.nbytes
        sizes = tuple((s.image.shape[0], s.image.shape[1]) for s in samples)
        shapes = tuple((truth.shape[0], truth.shape[1]) for truth in truths)
        return buffer, _EvalMade(shape, tuple(s.row for s in samples), sizes, shapes, kind, tuple(bad))
