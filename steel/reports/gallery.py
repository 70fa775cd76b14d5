"""Which images the report shows, chosen while they are evaluated: no image is predicted a second time.

A keeper is told of every image once, in any order and on any thread, and keeps what is drawn of the few that are, so
far, the first of their kind. It looks at the pixels of those alone, and of images whose label may be wrong. Its memory
is bounded by their number. Keepers of several ranks agree in `choose`.
"""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import cv2
import numpy as np

from steel.decision import Decision, apply_decision
from steel.images.bitmask import pack_masks
from steel.images.geometry import resize_bitmask
from steel.inference.region_tags import Mark, mark_regions
from steel.metrics.counts import INTERSECTION, PREDICTED, TRUE, dice, valid_mask
from steel.metrics.label_doubts import Region, combined, disagreeing_regions, may_disagree
from steel.metrics.scores import decided_counts
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics

WORST, FALSE_ALARMS, MISSES, BOUNDARY, LABELS = "worst", "false alarms", "misses", "boundary cases", "labels in doubt"
TYPICAL, RANDOM = "typical", "random"
KINDS = (WORST, FALSE_ALARMS, MISSES, BOUNDARY, TYPICAL, RANDOM, LABELS)
PER_KIND = {WORST: 24, FALSE_ALARMS: 16, MISSES: 16, BOUNDARY: 12, LABELS: 24}
"""So many are kept at most of each kind that is found on the way."""
MAX_PIXELS, _MAX_SIDE = 420_000, 16_000
"""Larger and longer images are drawn smaller."""

Order = tuple[float, float]
"""The place of an image in its kind: the largest come first."""


class Layers(NamedTuple):
    """What is drawn over an image."""

    predicted: np.ndarray
    """(h, w) bitmask."""
    probability: np.ndarray
    """(h, w) uint8, the largest of the classes'."""
    marks: Sequence[Mark]
    """Predicted regions, in the original's pixels."""


Ranking = dict[str, list[tuple[Order, int]]]
"""Kind to (order, row), the first first."""


@dataclass
class GalleryKeeper:
    """Keeps what one rank may have to draw."""

    decision: Decision
    ignore_bit: int | None = None
    wanted: Collection[int] = ()
    """Rows that are kept whatever comes of them."""
    regions: list[Region] = field(default_factory=list)
    """Where model and labels disagree, of all images seen."""
    _heaps: dict[str, list[tuple[Order, int]]] = field(default_factory=lambda: {kind: [] for kind in PER_KIND})
    _layers: dict[int, Layers] = field(default_factory=dict)
    _users: dict[int, int] = field(default_factory=dict)
    """How many heaps hold a row."""
    _lock: Lock = field(default_factory=Lock)

    def offer(self, image: ImageStatistics, bitmask: np.ndarray, get_mask_probs: Callable[[], np.ndarray]) -> None:
        """Be told of one image; threads may do so side by side.

        Args:
            image: its statistics.
            bitmask: (H, W), its truth.
            get_mask_probs: gives (C, H, W) uint8 at the original size, asked for where they are looked at.
        """
        orders = _orders(self.decision, image)
        if not self._looks_at(image, orders, bitmask.size):
            return
        mask_probs = get_mask_probs()
        found = disagreeing_regions(
            image.row, image.histograms, mask_probs, image.label_probs, bitmask, self.ignore_bit
        )
        if found:
            _, wrong = orders[BOUNDARY]
            orders[LABELS] = (combined([(region.kind, region.strength) for region in found]), wrong)
        with self._lock:
            self.regions += found
            kinds = [kind for kind, order in orders.items() if self._enters(kind, order, image.row)]
            if kinds or image.row in self.wanted:
                self._layers[image.row] = self._draw(image, mask_probs, bitmask)
                self._users[image.row] = int(image.row in self.wanted)
            for kind in kinds:
                heap = self._heaps[kind]
                heapq.heappush(heap, (orders[kind], -image.row))
                self._users[image.row] += 1
                if len(heap) > PER_KIND[kind]:
                    self._leave(-heapq.heappop(heap)[1])

    def ranking(self) -> Ranking:
        """What was kept of each kind, for `choose`."""
        return {
            kind: [(order, -row) for order, row in sorted(heap, reverse=True)] for kind, heap in self._heaps.items()
        }

    def layers(self, rows: Collection[int]) -> dict[int, Layers]:
        """What is drawn over those of `rows` that this keeper has seen."""
        return {row: layers for row, layers in self._layers.items() if row in rows}

    def _looks_at(self, image: ImageStatistics, orders: Mapping[str, Order], num_pixels: int) -> bool:
        """Whether an image's pixels matter: what would not enter now would not later, either."""
        if image.row in self.wanted or may_disagree(image.histograms, num_pixels):
            return True
        with self._lock:
            return any(self._enters(kind, order, image.row) for kind, order in orders.items())

    def _enters(self, kind: str, order: Order, row: int) -> bool:
        heap = self._heaps[kind]
        return len(heap) < PER_KIND[kind] or (order, -row) > heap[0]

    def _leave(self, row: int) -> None:
        self._users[row] -= 1
        if not self._users[row]:
            del self._users[row], self._layers[row]

    def _draw(self, image: ImageStatistics, mask_probs: np.ndarray, bitmask: np.ndarray) -> Layers:
        masks = apply_decision(self.decision, mask_probs, image.label_probs, valid_mask(bitmask, self.ignore_bit))
        height, width = drawn_size(bitmask.shape)
        probability = cv2.resize(mask_probs.max(axis=0), (width, height), interpolation=cv2.INTER_AREA)
        return Layers(resize_bitmask(pack_masks(masks), (height, width)), probability, mark_regions(masks, mask_probs))


def ranking_of(statistics: EvaluationStatistics, decision: Decision) -> Ranking:
    """The ranking of a keeper that would have seen all these images, told from their statistics alone; no region is
    known from those, so that no label is in doubt.

    Args:
        statistics: of the images.
        decision: what answers them.
    """
    entries: Ranking = {kind: [] for kind in PER_KIND}
    for image in statistics.images():
        for kind, order in _orders(decision, image).items():
            entries[kind].append((order, image.row))
    return {kind: heapq.nsmallest(most, entries[kind], key=_first) for kind, most in PER_KIND.items()}


def _orders(decision: Decision, image: ImageStatistics) -> dict[str, Order]:
    """The kinds that an image may be of by its statistics alone, with its place in each."""
    counts = decided_counts(decision, image.histograms[None], image.label_probs[None])[0]
    wrong = float((counts[:, PREDICTED] + counts[:, TRUE] - 2 * counts[:, INTERSECTION]).sum())
    p_any = float(image.label_probs[0])
    areas = counts.sum(axis=0)
    orders: dict[str, Order] = {BOUNDARY: (-abs(p_any - decision.binary_threshold), wrong)}
    if wrong:
        orders[WORST] = (1 - float(dice(counts).mean()), wrong)
    if areas[TRUE] == 0 and areas[PREDICTED] > 0:
        orders[FALSE_ALARMS] = (p_any, wrong)
    if areas[TRUE] > 0 and areas[PREDICTED] == 0:
        orders[MISSES] = (float(areas[TRUE]), -p_any)
    return orders


def choose(rankings: Sequence[Ranking]) -> dict[str, list[int]]:
    """The rows of each kind over all ranks, the first first."""
    return {
        kind: [row for _, row in sorted((one for ranking in rankings for one in ranking[kind]), key=_first)[:most]]
        for kind, most in PER_KIND.items()
    }


def _first(entry: tuple[Order, int]) -> tuple[float, float, int]:
    (first, second), row = entry
    return -first, -second, row


def drawn_size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width at which an image of `shape` is drawn."""
    height, width = shape[:2]
    scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5, _MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class Kept:
    """What all ranks kept for the report."""

    rows: Mapping[str, Sequence[int]]
    """Of each kind, the first first."""
    layers: Mapping[int, Layers]
    regions: Sequence[Region]
