"""Training batches: uint8 pixels and bit-packed targets, until they are on the device.

What a batch holds depends on the data, the order and the seed alone: not on the number of workers, ranks, or where
training was resumed. A worker hands over one flat buffer of bytes per batch; the tensors are views of it.
"""

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple, Protocol

import numpy as np
import torch

from steel.loading.augment import Augmenter
from steel.loading.buffers import Allocate, ordered_batches
from steel.loading.crop import target_dtype, to_target
from steel.loading.paste import Donor
from steel.loading.sampler import Sampler, sample_seeds
from steel.loading.workers import DEFAULT_START, StartMethod
from steel.shards.reader import BadSampleError, Sample, ShardReader

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
    """(m,) int64, rows of the samples."""
    positions: torch.Tensor
    """(m,) int64."""
    index: int
    """Which micro-batch of its step this is."""
    bad_samples: int
    """Samples that could not be read: each shows its neighbour's image, and its target is wholly invalid; or nothing
    of it was pasted."""
    pairs: torch.Tensor | None = None
    """(K,) int64 numbers `sample * C + class`, all classes that are present among them; see `present_pairs`. None when
    that is not known."""


class MicroBatchPlace(Protocol):
    """What a micro-batch consists of; `train.engine.batch_plan` makes them."""

    @property
    def index(self) -> int:
        """Which micro-batch of its step this is."""

    @property
    def positions(self) -> range:
        """Where its samples stand in the stream."""


def train_batches(
    reader: ShardReader,
    sampler: Sampler,
    augmenter: Augmenter,
    micro_batches: Iterable[MicroBatchPlace],
    *,
    seed: int,
    phase: int,
    workers: int,
    pin_memory: bool = False,
    pin_in_place: bool = False,
    start_method: StartMethod = DEFAULT_START,
) -> Generator[MicroBatch, None, None]:
    """Training micro-batches in the order of `micro_batches`.

    Args:
        reader: of the shards; its `on_bad_sample` says what a damaged sample does.
        sampler: which sample stands at which position.
        augmenter: crop and augmentation.
        micro_batches: this rank's, taken some way ahead.
        seed: of the run.
        phase: number of the phase.
        workers: processes that read and augment; 0 does so in this one, with the same result.
        pin_memory: hand over pinned memory, for copies to the GPU beside computation.
        pin_in_place: images and targets without a copy on the host, for who holds each micro-batch until it is on the
            GPU; see `ordered_batches`.
        start_method: of the workers.

    Raises:
        BadSampleError: a damaged sample, unless the reader skips; or too many of them.
    """
    work = _TrainWork(reader, augmenter, seed, phase)
    places = iter(micro_batches)
    first = list(islice(places, 1))
    size = max((len(place.positions) for place in first), default=1)
    for buffer, made in ordered_batches(
        work,
        _train_items(sampler, chain(first, places)),
        buffer_bytes=work.num_bytes(size),
        workers=workers,
        pin_memory=pin_memory,
        pin_in_place=pin_in_place,
        prepare=work.ask_for,
        ahead=math.ceil(reader.num_ahead() / size),
        on_start=reader.prefetch,
        start_method=start_method,
    ):
        reader.count_bad(made.bad)
        targets, images = _train_views(buffer, len(made.item.rows), augmenter, reader)
        rows, positions = torch.from_numpy(made.item.rows), torch.from_numpy(made.item.positions)
        pairs = torch.from_numpy(made.pairs)
        if buffer.is_pinned():
            pairs = pairs.pin_memory()  # some numbers
        yield MicroBatch(images.permute(0, 3, 1, 2), targets, rows, positions, made.item.number, len(made.bad), pairs)


class _TrainItem(NamedTuple):
    """What a worker is asked for: the draws of one micro-batch."""

    number: int
    positions: np.ndarray
    rows: np.ndarray
    target_classes: np.ndarray
    donors: np.ndarray
    donor_classes: np.ndarray


class _TrainMade(NamedTuple):
    item: _TrainItem
    bad: tuple[BadSampleError, ...]
    pairs: np.ndarray


def _train_items(sampler: Sampler, micro_batches: Iterable[MicroBatchPlace]) -> Iterator[_TrainItem]:
    """The draws of each micro-batch; many at once, for arithmetic on a few numbers costs as much as on thousands."""
    places = iter(micro_batches)
    while chunk := list(islice(places, _LOOKAHEAD)):
        positions = np.concatenate([np.asarray(place.positions) for place in chunk])
        rows, target_classes = sampler.samples_at(positions)
        ends = np.cumsum([len(place.positions) for place in chunk])[:-1]
        parts = (np.split(values, ends) for values in (positions, rows, target_classes, *sampler.donors_at(positions)))
        for place, *draws in zip(chunk, *parts, strict=True):
            yield _TrainItem(place.index, *draws)


def _train_views(
    buffer: torch.Tensor, num: int, augmenter: Augmenter, reader: ShardReader
) -> tuple[torch.Tensor, torch.Tensor]:
    """A micro-batch's flat bytes as targets (m, h, w) and images (m, h, w, c)."""
    (height, width), channels = augmenter.crop, reader.manifest.channels
    kind = torch.from_numpy(np.empty(0, target_dtype(augmenter.num_classes))).dtype
    end = num * height * width * kind.itemsize
    return buffer[:end].view(kind).view(num, height, width), buffer[end:].view(num, height, width, channels)


class _TrainWork:
    """Reads, crops and augments the samples of a micro-batch."""

    def __init__(self, reader: ShardReader, augmenter: Augmenter, seed: int, phase: int) -> None:
        self.reader, self.augmenter, self.seed, self.phase = reader, augmenter, seed, phase

    def num_bytes(self, num: int) -> int:
        """Size of the buffer of a micro-batch of `num` samples."""
        target_size = target_dtype(self.augmenter.num_classes).itemsize
        return num * self.augmenter.crop[0] * self.augmenter.crop[1] * (target_size + self.reader.manifest.channels)

    def ask_for(self, item: _TrainItem) -> None:
        """Have what a micro-batch needs brought into memory."""
        self.reader.ask_for([*item.rows.tolist(), *item.donors[item.donor_classes > 0].tolist()])

    def __call__(self, item: _TrainItem, allocate: Allocate) -> tuple[torch.Tensor, _TrainMade]:
        num = len(item.rows)
        buffer = allocate(self.num_bytes(num))
        targets, images = (view.numpy() for view in _train_views(buffer, num, self.augmenter, self.reader))
        seeds = sample_seeds(self.seed, self.phase, item.positions)
        failed: list[BadSampleError] = []
        bad: list[int] = []
        draws = zip(item.rows, item.target_classes, item.donors, item.donor_classes, seeds, strict=True)
        for i, (row, target_class, donor_row, donor_class, seed) in enumerate(draws):
            sample = self._read(int(row), failed)
            if sample is None:
                bad.append(i)
                continue
            donor = self._donor(int(donor_row), int(donor_class), failed) if donor_class else None
            image, targets[i] = self.augmenter(
                sample.image, sample.bitmask, seed=int(seed), target_class=int(target_class), donor=donor
            )
            images[i] = image.reshape(images.shape[1:])
        for i in bad:
            good = next((j % num for j in range(i + 1, i + num) if j % num not in bad), None)
            images[i] = 0 if good is None else images[good]
            targets[i] = self.augmenter.invalid
        return buffer, _TrainMade(item, tuple(failed), present_pairs(targets, self.augmenter.num_classes))

    def _read(self, row: int, failed: list[BadSampleError]) -> Sample | None:
        """A sample; None, with the reason in `failed`, of a damaged one that may be skipped."""
        try:
            return self.reader.read_sample(row)
        except BadSampleError as error:
            if self.reader.on_bad_sample == "fail":
                raise
            failed.append(error)
            return None

    def _donor(self, row: int, class_id: int, failed: list[BadSampleError]) -> Donor | None:
        sample = self._read(row, failed)
        if sample is None:
            return None
        target = to_target(sample.bitmask, self.augmenter.num_classes, self.augmenter.ignore_bit)
        return Donor(sample.image, target, class_id)


def present_pairs(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Which samples have which classes, of packed targets (m, h, w): (K,) int64 `sample * C + class`, ascending.

    K is rounded up to a multiple of m, and to m at least, by pairs that are absent: few sizes occur, and none of those,
    empty or of one pair beside others of more, for which a compiled step would need a graph of its own.
    """
    bits = [int(np.bitwise_or.reduce(target, axis=None)) for target in targets]
    present = np.array([bit >> k & 1 for bit in bits for k in range(num_classes)], bool)
    num = max(1, -(-int(np.count_nonzero(present)) // len(bits))) * len(bits)
    num = max(num, min(2, len(present)))
    return np.sort(np.argsort(~present, kind="stable")[:num])


def unpack_targets(targets: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed targets (m, h, w) as masks (m, C, h, w) and valid pixels (m, 1, h, w), float32 0/1, on their device."""
    bits = torch.arange(num_classes + 1, device=targets.device, dtype=targets.dtype)
    planes = (targets[:, None] >> bits[None, :, None, None]) & 1
    return planes[:, :num_classes].float(), 1.0 - planes[:, num_classes:].float()
