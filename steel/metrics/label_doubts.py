"""Labels that may be wrong: regions where a confident model and the label disagree.

Two kinds of claims are made against a label, each on a whole region:

- `not labelled`: the model is sure of a class in a region that the label hardly touches;
- `not seen`: the label marks a region in which the model sees next to nothing of the class.

A claim weighs as much as the model has earned. `not labelled` counts by the share of what the model is as sure of that
is right elsewhere; `not seen` by the share of defects as large that the model does find: of one that misses every small
defect, its silence on a small defect says nothing. The classification head must agree, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from steel.metrics.counts import INSIDE, INTERSECTION, NUM_BINS, OUTSIDE, TRUE, valid_mask
from steel.metrics.curves import threshold_curve
from steel.metrics.sizes import area_octave

NOT_LABELLED, NOT_SEEN = "not labelled", "not seen"
SURE = 204
"""A pixel is surely of the class from this quantised probability on (0.8) ..."""
ABSENT = 51
"""... and surely not up to this one (0.2)."""
LEAST_DOUBT = 0.25
"""Images below it are not in doubt: the claims against their labels are not ones that the model has earned."""
_TOUCHING = 0.05
"""A sure region with a larger share inside the label is a matter of outlines."""
_MIN_AREA, _MIN_SHARE = 32, 2.5e-4
"""A region has at least so many pixels, and such a share of the image."""


class Region(NamedTuple):
    """A connected region where model and label disagree."""

    row: int
    class_index: int
    kind: str
    """`NOT_LABELLED` or `NOT_SEEN`."""
    left: int
    top: int
    width: int
    height: int
    area: int
    """Pixels."""
    confidence: float
    """Mean probability, over the region, of what the label does not say."""
    agreement: float
    """The classification head's probability of the same, for the image."""

    @property
    def strength(self) -> float:
        """How strongly the model disagrees, 0 to 1, whatever its record."""
        return self.confidence * self.agreement


@dataclass(frozen=True)
class Doubt:
    """An image whose label is in doubt."""

    row: int
    doubt: float
    """0 to 1; larger is more doubtful."""
    regions: tuple[tuple[Region, float], ...]
    """Its regions with the doubt that each of them raises, strongest first."""


@dataclass(frozen=True, eq=False)
class _Record:
    """How often the model has been right: what its claims weigh."""

    precision: np.ndarray
    """(C,) of the pixels that it is sure of."""
    octaves: np.ndarray
    """(N, C) of the true areas."""
    found: np.ndarray
    """(N, C) bool: with a pixel that is right."""

    @classmethod
    def read(cls, histograms: np.ndarray, counts: np.ndarray) -> "_Record":
        """Of the same arguments as `rank_doubts`."""
        totals = histograms.sum(axis=0, dtype=np.int64)
        precision = np.array([np.nan_to_num(threshold_curve(levels).precision[SURE]) for levels in totals])
        return cls(precision, area_octave(counts[..., TRUE]), counts[..., INTERSECTION] > 0)

    def of(self, region: Region) -> float:
        """What a claim on this region weighs, 0 to 1."""
        if region.kind == NOT_LABELLED:
            return float(self.precision[region.class_index])
        return self._finds(region.class_index, int(area_octave(np.array(region.area))))

    def most(self, kind: str) -> np.ndarray:
        """(C,) what a claim of this kind can weigh, whatever its region."""
        if kind == NOT_LABELLED:
            return self.precision
        # One more than the largest stands for sizes of which there is no defect.
        sizes = range(int(self.octaves.max(initial=0)) + 2)
        return np.array([max(self._finds(k, size) for size in sizes) for k in range(self.octaves.shape[1])])

    def _finds(self, k: int, octave: int) -> float:
        alike = self.octaves[:, k] == octave
        return float((np.count_nonzero(self.found[alike, k]) + 0.5) / (np.count_nonzero(alike) + 1))


def disagreeing_regions(
    row: int,
    histograms: np.ndarray,
    mask_probs: np.ndarray,
    label_probs: np.ndarray,
    bitmask: np.ndarray,
    ignore_bit: int | None = None,
) -> list[Region]:
    """The regions of one image where model and label disagree.

    Args:
        row: the image's.
        histograms: (C, 2, 256) of it.
        mask_probs: (C, H, W) uint8.
        label_probs: (1 + C,) uint8.
        bitmask: (H, W), the label.
        ignore_bit: the bit of pixels without a truth, if any.
    """
    least = _least_area(bitmask.size)
    sure_pixels, unseen_pixels = _claimed_pixels(histograms)
    valid = valid_mask(bitmask, ignore_bit)
    found: list[Region] = []
    for k, probs in enumerate(mask_probs):
        of_head = float(label_probs[1 + k]) / (NUM_BINS - 1)
        if sure_pixels[k] >= least:
            sure = probs >= SURE if valid is None else (probs >= SURE) & valid
            for (left, top, width, height), inside in _components(sure, least):
                part = np.s_[top : top + height, left : left + width]
                labelled = (bitmask[part] >> k & 1)[inside].mean()
                if labelled <= _TOUCHING:
                    place = (left, top, width, height, int(inside.sum()))
                    found.append(Region(row, k, NOT_LABELLED, *place, _mean(probs[part][inside]), of_head))
        if unseen_pixels[k] >= least:
            for (left, top, width, height), inside in _components(bitmask >> k & 1 == 1, least):
                part = np.s_[top : top + height, left : left + width]
                seen = _mean(probs[part][inside])
                if seen <= ABSENT / (NUM_BINS - 1):
                    place = (left, top, width, height, int(inside.sum()))
                    found.append(Region(row, k, NOT_SEEN, *place, 1 - seen, 1 - of_head))
    return found


def may_disagree(histograms: np.ndarray, num_pixels: int) -> bool:
    """Whether `disagreeing_regions` may find any: most images are told to have none without a look at their pixels.

    Args:
        histograms: (C, 2, 256) of the image.
        num_pixels: of the image.
    """
    return any((pixels >= _least_area(num_pixels)).any() for pixels in _claimed_pixels(histograms))


def may_be_doubted(histograms: np.ndarray, label_probs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) bool: the images that `rank_doubts` may give, told from what is kept of all images without their pixels.

    None is left out that is in doubt; of those that are not, whose pixels need no second look, most are.

    Args:
        histograms: as of `rank_doubts`.
        label_probs: (N, 1 + C) uint8 of the same images.
        counts: as of `rank_doubts`.
    """
    record = _Record.read(histograms, counts)
    least = np.array([_least_area(num_pixels) for num_pixels in histograms[:, 0].sum(axis=(1, 2)).tolist()])[:, None]
    of_head = label_probs[:, 1:] / (NUM_BINS - 1)
    sure, unseen = _claimed_pixels(histograms)
    claims = [
        (np.where(pixels >= least, agreement, 0) * record.most(kind)).max(axis=1)
        for kind, pixels, agreement in ((NOT_LABELLED, sure, of_head), (NOT_SEEN, unseen, 1 - of_head))
    ]
    return 1 - (1 - claims[0]) * (1 - claims[1]) >= LEAST_DOUBT


def combined(strengths: Sequence[tuple[str, float]]) -> float:
    """What (kind, strength) pairs of one image amount to: the strongest of each kind, as independent witnesses."""
    strongest = [max((s for kind, s in strengths if kind == which), default=0.0) for which in (NOT_LABELLED, NOT_SEEN)]
    return 1 - (1 - strongest[0]) * (1 - strongest[1])


def rank_doubts(regions: Sequence[Region], histograms: np.ndarray, counts: np.ndarray) -> list[Doubt]:
    """Images in doubt, most doubtful first.

    Args:
        regions: of all images.
        histograms: (N, C, 2, 256) of all images, for the model's record.
        counts: (N, C, 3) `(intersection, predicted, true)` pixels of all images as decided, for the same.
    """
    record = _Record.read(histograms, counts)
    by_row: dict[int, list[tuple[Region, float]]] = {}
    for region in regions:
        by_row.setdefault(region.row, []).append((region, region.strength * record.of(region)))
    doubts = [
        Doubt(row, combined([(r.kind, s) for r, s in found]), tuple(sorted(found, key=lambda pair: -pair[1])))
        for row, found in by_row.items()
    ]
    return sorted(
        (doubt for doubt in doubts if doubt.doubt >= LEAST_DOUBT), key=lambda doubt: (-doubt.doubt, doubt.row)
    )


def _claimed_pixels(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., C) pixels each of the classes that the model is sure of outside the label, and does not see inside it."""
    return histograms[..., OUTSIDE, SURE:].sum(axis=-1), histograms[..., INSIDE, : ABSENT + 1].sum(axis=-1)


def _least_area(num_pixels: int) -> int:
    return max(_MIN_AREA, round(_MIN_SHARE * num_pixels))


def _components(mask: np.ndarray, least: int) -> list[tuple[tuple[int, int, int, int], np.ndarray]]:
    """Box (left, top, width, height) and (height, width) bool inside it of each region of at least so many pixels."""
    num, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    found = []
    for number in range(1, num):
        left, top, width, height, area = (int(value) for value in stats[number])
        if area >= least:
            found.append(((left, top, width, height), numbers[top : top + height, left : left + width] == number))
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) / (NUM_BINS - 1)
