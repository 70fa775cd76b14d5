"""Evaluation batches: every image whole and exactly once, in batches that are the same for every number of ranks."""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from steel.images.geometry import images_per_pass, pad_image
from steel.loading.buffers import Allocate, ordered_batches
from steel.loading.crop import target_dtype, to_target
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
    """The truth of each, at the image's *original* size; uint8 or uint16. Empty where only `targets` are wanted."""
    sizes: torch.Tensor
    """(n, 2) int64: height and width of each stored image, the part of `images` that is not padding."""
    bad_samples: int
    """Images that could not be read and are left out."""
    targets: torch.Tensor | None = None
    """(B, H, W), see `fill_targets`; None where they were not asked for, or an image is stored resized."""


@dataclass(frozen=True)
class Truth:
    """What batches are to have of the truth."""

    has_targets: Callable[[int, int], bool] = lambda height, width: False
    """Whether batches of this padded size come with `targets`, if no image of theirs is stored resized."""
    keeps_bitmasks: bool = True
    """Those of batches with targets, too."""


BITMASKS = Truth()


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
    truth: Truth = BITMASKS,
    pin_memory: bool = False,
    pin_in_place: bool = False,
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
        truth: what batches have of it.
        pin_memory: hand over pinned memory.
        pin_in_place: without a copy on the host, for who holds each batch until it is on the GPU; see
            `ordered_batches`.
        start_method: of the workers.

    Raises:
        BadSampleError: a damaged sample, unless the reader skips; or too many of them.
    """
    items = plan_eval_batches(
        *(reader, rows, truth), pixels_per_pass=pixels_per_pass, budget=budget, views=views, stride=stride
    )[rank::world]
    work = _EvalWork(reader)
    samples_per_item = max((len(item.rows) for item in items), default=1) * len(reader.samples) / len(reader.index)
    for buffer, made in ordered_batches(
        work,
        items,
        buffer_bytes=max(map(work.num_bytes, items), default=0),
        workers=workers,
        pin_memory=pin_memory,
        pin_in_place=pin_in_place,
        prepare=work.ask_for,
        ahead=math.ceil(reader.num_ahead() / samples_per_item),
        on_start=reader.prefetch,
        start_method=start_method,
    ):
        reader.count_bad(made.bad)
        yield made.batch(work.views(buffer, made.item))


class EvalItem(NamedTuple):
    """One batch of an evaluation: which rows, padded to which size, in a batch of how many places."""

    rows: tuple[int, ...]
    height: int
    width: int
    places: int
    has_targets: bool = False
    has_bitmasks: bool = True


def plan_eval_batches(
    reader: ShardReader,
    rows: np.ndarray,
    truth: Truth = BITMASKS,
    *,
    pixels_per_pass: int,
    budget: int | None = None,
    views: int = 1,
    stride: int,
) -> list[EvalItem]:
    """All batches of an evaluation, in the one order that every world size shares."""
    index = reader.index
    stored = np.stack([index.height[rows], index.width[rows]], axis=1)
    is_original = np.all(stored == np.stack([index.original_height[rows], index.original_width[rows]], axis=1), axis=1)
    sizes = -(-stored // stride) * stride
    items: list[EvalItem] = []
    order = np.lexsort((np.arange(len(rows)), sizes[:, 1], sizes[:, 0]))
    for (height, width), group in groupby(order.tolist(), key=lambda i: (int(sizes[i, 0]), int(sizes[i, 1]))):
        members, packs = list(group), truth.has_targets(height, width)
        places = images_per_pass(height, width, pixels_per_pass, budget, views)
        for start in range(0, len(members), places):
            chosen = members[start : start + places]
            has_targets = packs and bool(is_original[chosen].all())
            has_bitmasks = truth.keeps_bitmasks or not has_targets
            items.append(
                EvalItem(tuple(int(rows[i]) for i in chosen), height, width, places, has_targets, has_bitmasks)
            )
    return items


def fill_targets(targets: np.ndarray, bitmasks: Sequence[np.ndarray], num_classes: int, ignore_bit: int | None) -> None:
    """Write the truth of a padded batch: bits 0..C-1 = classes, bit C = not counted, as padding and ignored pixels are.

    Args:
        targets: (B, H, W) uint8, or int32 for more than 7 classes; places without a bitmask count for nothing.
        bitmasks: (h, w) of each image, no larger than the batch's.
        num_classes: C.
        ignore_bit: the bitmasks' bit of ignored pixels, if any.
    """
    for target, bitmask in zip(targets, bitmasks, strict=False):
        height, width = bitmask.shape
        target[:height, :width] = to_target(bitmask, num_classes, ignore_bit)
        target[height:] = target[:height, width:] = 1 << num_classes
    targets[len(bitmasks) :] = 1 << num_classes


class _Views(NamedTuple):
    """A batch's flat bytes: the targets, if it has any, the images, and the bitmasks one after another."""

    targets: torch.Tensor | None
    """(B, H, W)."""
    images: torch.Tensor
    """(B, H, W, c)."""
    rest: torch.Tensor
    """Bytes."""


class _EvalMade(NamedTuple):
    item: EvalItem
    rows: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    original_sizes: tuple[tuple[int, int], ...]
    mask_kind: np.dtype
    bad: tuple[BadSampleError, ...]

    def batch(self, views: _Views) -> EvalBatch:
        """Of the buffer that a worker filled, without a copy."""
        bitmasks, start = [], 0
        for height, width in self.original_sizes if self.item.has_bitmasks else ():
            end = start + height * width * self.mask_kind.itemsize
            bitmasks.append(views.rest[start:end].numpy().view(self.mask_kind).reshape(height, width))
            start = end
        return EvalBatch(
            views.images.permute(0, 3, 1, 2),
            torch.tensor(self.rows, dtype=torch.int64),
            bitmasks,
            torch.tensor(self.sizes, dtype=torch.int64).reshape(-1, 2),
            len(self.bad),
            views.targets,
        )


class _EvalWork:
    """Reads and pads the images of one evaluation batch."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def num_bytes(self, item: EvalItem) -> int:
        """Size of the buffer of a batch, if none of its samples is bad."""
        index, rows = self.reader.index, list(item.rows)
        pixels = np.multiply(index.original_height[rows], index.original_width[rows], dtype=np.int64).sum()
        return sum(self._sizes(item)) + item.has_bitmasks * int(pixels) * self.reader.mask_kind.itemsize

    def ask_for(self, item: EvalItem) -> None:
        """Have the images of a batch brought into memory."""
        for row in item.rows:
            self.reader.ask_for(self.reader.index.tiles(row))

    def views(self, buffer: torch.Tensor, item: EvalItem) -> _Views:
        """Of the buffer of a batch."""
        targets, images, rest = buffer.tensor_split(np.cumsum(self._sizes(item)).tolist())
        places = item.places, item.height, item.width
        kind = torch.from_numpy(np.empty(0, self._target_kind)).dtype
        return _Views(
            targets.view(kind).view(places) if item.has_targets else None,
            images.view(*places, self.reader.manifest.channels),
            rest,
        )

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
        kept = truths if item.has_bitmasks else []
        buffer = allocate(sum(self._sizes(item)) + sum(truth.nbytes for truth in kept))
        targets, images, rest = self.views(buffer, item)
        for image, sample in zip(images.numpy(), samples, strict=False):
            image[:] = pad_image(sample.image, item.height, item.width).reshape(image.shape)
        images[len(samples) :] = 0
        if targets is not None:
            manifest = self.reader.manifest
            fill_targets(targets.numpy(), truths, manifest.num_classes, manifest.ignore_bit)
        start = 0
        for truth in kept:
            rest[start : start + truth.nbytes].numpy()[:] = truth.ravel().view(np.uint8)
            start += truth.nbytes
        sizes = tuple((s.image.shape[0], s.image.shape[1]) for s in samples)
        shapes = tuple((truth.shape[0], truth.shape[1]) for truth in truths)
        return buffer, _EvalMade(item, tuple(s.row for s in samples), sizes, shapes, kind, tuple(bad))

    @property
    def _target_kind(self) -> np.dtype:
        return target_dtype(self.reader.manifest.num_classes)

    def _sizes(self, item: EvalItem) -> tuple[int, int]:
        """Bytes of the targets and of the images."""
        pixels = item.places * item.height * item.width
        return item.has_targets * pixels * self._target_kind.itemsize, pixels * self.reader.manifest.channels
