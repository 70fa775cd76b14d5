"""What an evaluation keeps of each image: enough to score any decision and to find the best one, at a fixed size.

An image costs 2 KiB a class whatever its resolution (12,568 images of 4 classes: 103 MB). Parts made by several ranks,
or by the members of a cross-validation, are joined with `EvaluationStatistics.concat`, in the order of their rows, so
every score is the same for any number of parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from steel.decision import Decision, apply_decision, kept
from steel.errors import InputError
from steel.labels.classes import MAX_CLASSES
from steel.metrics.confusion import answers_confusion, pixel_confusion
from steel.metrics.counts import INSIDE, NUM_BINS, PREDICTED, counts_from, histograms, valid_mask
from steel.storage import open_write

_SAVED = ("rows", "histograms", "label_probs")


class ImageStatistics(NamedTuple):
    """One image's share."""

    row: int
    histograms: np.ndarray
    """(C, 2, 256) integers, by class, outside / inside the truth, and probability."""
    label_probs: np.ndarray
    """(1 + C,) uint8."""
    background: np.ndarray | None = None
    """(3,) `(intersection, predicted, true)` pixels of the background under a decision, when one was applied."""
    confusion: np.ndarray | None = None
    """(1 + C, 1 + C) pixels by [true, predicted] class under that decision; see `steel.metrics.confusion`."""


def image_statistics(
    row: int,
    mask_probs: np.ndarray,
    label_probs: np.ndarray,
    bitmask: np.ndarray,
    *,
    ignore_bit: int | None = None,
    decision: Decision | None = None,
) -> ImageStatistics:
    """Reduce one image's probabilities and truth to its statistics.

    Args:
        row: the image's row in the index.
        mask_probs: (C, H, W) uint8 at the original size.
        label_probs: (1 + C,) uint8.
        bitmask: (H, W) uint8 or uint16 at the original size.
        ignore_bit: the bitmask's bit of ignored pixels, if any.
        decision: count the background and the confusion under it; without, `miou_with_background` cannot be given.
    """
    num_classes = len(mask_probs)
    background = confusion = None
    if decision is not None:
        masks = apply_decision(decision, mask_probs, label_probs, valid_mask(bitmask, ignore_bit))
        confusion, background = pixel_confusion(masks, bitmask, ignore_bit)
    counted = histograms(mask_probs, bitmask, num_classes, ignore_bit)
    return ImageStatistics(row, counted.astype(np.uint32), label_probs, background, confusion)


def counted_statistics(
    row: int, counted: np.ndarray, label_probs: np.ndarray, answers: np.ndarray | None, decision: Decision | None
) -> ImageStatistics:
    """What `image_statistics` gives of an image whose pixels have been counted elsewhere.

    Args:
        row: the image's row in the index.
        counted: (C, 2, 256) histograms.
        label_probs: (1 + C,) uint8.
        answers: (C + 2, 2**C) at the decision's pixel thresholds, see `answers_confusion`; None without a decision.
        decision: under which the background and the confusion are told, if any.
    """
    background = confusion = None
    if decision is not None:
        assert answers is not None, f"row {row}: counted without the decision"
        areas = counts_from(counted, decision.pixel_thresholds)[:, PREDICTED]
        confusion, background = answers_confusion(answers, kept(decision, areas, label_probs))
    return ImageStatistics(row, counted, label_probs, background, confusion)


@dataclass(frozen=True, eq=False)
class EvaluationStatistics:
    """The statistics of N different images, sorted by row."""

    rows: np.ndarray
    """(N,) int64, ascending."""
    histograms: np.ndarray
    """(N, C, 2, 256) uint32."""
    label_probs: np.ndarray
    """(N, 1 + C) uint8."""
    background: np.ndarray | None = None
    """(N, 3) int64 `(intersection, predicted, true)` pixels, under `decision`."""
    decision: Decision | None = None
    """The decision the background was counted under."""
    confusion: np.ndarray | None = None
    """(N, 1 + C, 1 + C) int64 pixels by [true, predicted] class, under `decision`."""
    groups: np.ndarray | None = None
    """(N,) numbers that images share which are duplicates or belong together; all differ when None. What such images
    say counts as one piece of evidence."""

    def __post_init__(self) -> None:
        num_images, num_classes = len(self.rows), self.histograms.shape[1]
        assert self.histograms.shape == (num_images, num_classes, 2, NUM_BINS), self.histograms.shape
        assert self.label_probs.shape == (num_images, 1 + num_classes), self.label_probs.shape
        assert self.background is None or self.background.shape == (num_images, 3), self.background
        assert self.groups is None or self.groups.shape == (num_images,), self.groups
        assert np.all(np.diff(self.rows) > 0), "rows must be ascending and different"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.histograms.shape[1]

    @property
    def num_groups(self) -> int:
        """Pieces of evidence: groups where these are known, else images."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    @property
    def true_areas(self) -> np.ndarray:
        """(N, C) int64 pixels."""
        return self.histograms[:, :, INSIDE].sum(axis=-1, dtype=np.int64)

    @classmethod
    def from_images(
        cls, images: Iterable[ImageStatistics], num_classes: int, decision: Decision | None = None
    ) -> "EvaluationStatistics":
        """Gather images, in any order; none at all is fine (a rank without work).

        Args:
            images: of different rows.
            num_classes: C.
            decision: the one the images' background was counted under; None leaves the background out.
        """
        images = sorted(images, key=lambda image: image.row)
        num = len(images)
        counts = np.zeros((num, num_classes, 2, NUM_BINS), np.uint32)
        label_probs = np.zeros((num, 1 + num_classes), np.uint8)
        background = None if decision is None else np.zeros((num, 3), np.int64)
        confusion = None if decision is None else np.zeros((num, 1 + num_classes, 1 + num_classes), np.int64)
        for i, image in enumerate(images):
            counts[i], label_probs[i] = image.histograms, image.label_probs
            if background is not None and confusion is not None:
                assert image.background is not None, f"row {image.row} has no background counts"
                assert image.confusion is not None, f"row {image.row} has no confusion"
                background[i], confusion[i] = image.background, image.confusion
        rows = np.array([i.row for i in images], np.int64)
        return cls(rows, counts, label_probs, background, decision, confusion)

    @classmethod
    def concat(cls, parts: Sequence["EvaluationStatistics"]) -> "EvaluationStatistics":
        """Join parts of different rows; background and confusion survive when all counted them under one decision."""
        rows = np.concatenate([p.rows for p in parts])
        order = np.argsort(rows, kind="stable")
        decision = parts[0].decision
        background = confusion = None
        if decision is not None and all(p.decision == decision for p in parts):
            background = np.concatenate([p.background for p in parts if p.background is not None])[order]
            confusion = np.concatenate([p.confusion for p in parts if p.confusion is not None])[order]
        return cls(
            rows[order],
            np.concatenate([p.histograms for p in parts])[order],
            np.concatenate([p.label_probs for p in parts])[order],
            background,
            None if background is None else decision,
            confusion,
            joined_groups(parts, order),
        )

    def images(self) -> Iterator[ImageStatistics]:
        """One by one, without background and confusion."""
        for one in zip(self.rows.tolist(), self.histograms, self.label_probs, strict=True):
            yield ImageStatistics(*one)

    def select(self, chosen: np.ndarray) -> "EvaluationStatistics":
        """The images where `chosen` (N,) bool is set."""
        assert chosen.dtype == bool, chosen.dtype
        assert chosen.shape == self.rows.shape, (chosen.shape, self.rows.shape)
        background, confusion, groups = (
            None if values is None else values[chosen] for values in (self.background, self.confusion, self.groups)
        )
        return EvaluationStatistics(
            self.rows[chosen],
            self.histograms[chosen],
            self.label_probs[chosen],
            background,
            self.decision,
            confusion,
            groups,
        )

    def save(self, path: str | Path) -> None:
        """Write rows, histograms and probabilities as a compressed `.npz`: a cross-validation joins them."""
        with open_write(path) as file:
            np.savez_compressed(file, **{name: getattr(self, name) for name in _SAVED})

    @classmethod
    def load(cls, path: str | Path) -> "EvaluationStatistics":
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not whole.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                rows, counts, label_probs = (arrays[name] for name in _SAVED)
            fault = _saved_fault(rows, counts, label_probs)
        except Exception as error:  # zip, its compression and numpy have errors of their own
            fault = str(error) or type(error).__name__
        if fault is not None:
            raise InputError(f"{path}: not readable evaluation statistics ({fault}); evaluate again")
        return cls(rows, counts, label_probs)


class _Grouped(Protocol):
    @property
    def groups(self) -> np.ndarray | None: ...


def joined_groups(parts: Sequence[_Grouped], order: np.ndarray) -> np.ndarray | None:
    """The groups of all parts, one behind the other and then in `order`; None where not all know theirs."""
    groups = [part.groups for part in parts if part.groups is not None]
    return np.concatenate(groups)[order] if groups and len(groups) == len(parts) else None


def _saved_fault(rows: np.ndarray, counts: np.ndarray, label_probs: np.ndarray) -> str | None:
    """What is wrong with arrays that were read; None when they can be statistics."""
    kinds = [(rows, np.int64, 1), (counts, np.uint32, 4), (label_probs, np.uint8, 2)]
    if any(array.dtype != kind or array.ndim != ndim for array, kind, ndim in kinds):
        return "arrays of other types"
    num_images, num_classes = len(rows), counts.shape[1]
    if counts.shape != (num_images, num_classes, 2, NUM_BINS) or label_probs.shape != (num_images, 1 + num_classes):
        return "arrays that do not belong together"
    if not 0 < num_classes <= MAX_CLASSES or (num_images and rows[0] < 0) or (np.diff(rows) <= 0).any():
        return "rows or classes that cannot be"
    return None
