"""The exhaustive search behind threshold tuning: the score of every cell of a grid of settings, in integers.

For one class and one gate the grid has five axes: binary threshold, pixel threshold, label threshold, minimum area and
maximum area (an axis that the gate does not use has one cell). Dropping a pair's pixels changes its Dice to 1 when the
class is not there and to 0 when it is; what keeping them *gains* over that is known for each image and pixel threshold
from its histograms. A cell's score is the sum of the gains of the images that pass its other four limits: one
histogram of gains over the limits each image reaches, cumulated along each axis, gives all cells at once. There is one
such table for each fold of the images, so that what is best without some of them takes sums of tables alone. Another
such table counts the images with the class that a cell finds: cells that find hardly any are none to choose.

Cells are compared by the mean over the cell and its neighbours one step away on every axis (up to 3^5 cells, fewer at
the grid's border; a neighbour whose window of areas is not allowed is no setting to choose, but counts with the answers
it would give). So a broad plateau wins over a narrow peak. Gains are whole multiples of `1 / DICE_UNIT`, and sums of
them exact: equal cells are equal, and the result does not depend on the order of the images.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from steel.decision import HALF, ClassDecision
from steel.gates import NO_LIMIT, Gate
from steel.metrics.counts import INSIDE, dice
from steel.thresholds.search_space import MIN_FOUND_SHARE, ClassGrid

DICE_UNIT = 2**26
"""Dice is rounded to multiples of 1 / DICE_UNIT (7e-9); with it sums over 8 million images fit 64 bits."""
_WINDOW = 6
"""Weights of an axis's window of 1, 2 or 3 cells add up to this, so that all cells share a denominator."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the search needs of one class at the T pixel thresholds of its grid, of the A images where it matters."""

    images: np.ndarray
    """(A,) int64 positions among all N images: those where keeping the pixels or dropping them differs somewhere."""
    areas: np.ndarray
    """(A, T) int64 predicted pixels."""
    minima: np.ndarray
    """(A, T) int64 the largest minimum area that they pass: the areas as the gate weighs them."""
    gains: np.ndarray
    """(A, T) int64: Dice when the pixels are kept less Dice when they are dropped, in 1 / DICE_UNIT. Above 0 where a
    defect is found, below 0 where there is none."""
    class_probs: np.ndarray
    """(A,) int64, 0 to 255: the head's probability of the class."""
    any_probs: np.ndarray
    """(A,) int64, 0 to 255: its probability of any defect."""

    def under(self, gate: Gate) -> "Evidence":
        """The same under a gate that makes more or less of the areas."""
        return replace(self, minima=gate.weigh_area(self.areas, self.class_probs[:, None]))


def gather_evidence(
    histograms: np.ndarray, class_probs: np.ndarray, any_probs: np.ndarray, pixel_thresholds: Sequence[int]
) -> Evidence:
    """Read areas and Dice at all pixel thresholds off one class's histograms.

    Args:
        histograms: (N, 2, 256) integer counts.
        class_probs: (N,) uint8.
        any_probs: (N,) uint8.
        pixel_thresholds: ascending.
    """
    between = np.add.reduceat(histograms, np.asarray(pixel_thresholds), axis=-1, dtype=np.int64)
    above = between[..., ::-1].cumsum(axis=-1)[..., ::-1]
    areas, intersections = above.sum(axis=1), above[:, INSIDE]
    true = histograms[:, INSIDE].sum(axis=-1, dtype=np.int64)
    pair_dice = dice(np.stack([intersections, areas, np.broadcast_to(true[:, None], areas.shape)], axis=-1))
    dropped = (true == 0).astype(np.float64)
    gains = np.rint((pair_dice - dropped[:, None]) * DICE_UNIT).astype(np.int64)
    images = np.flatnonzero(gains.any(axis=1))
    areas = areas[images]
    probs = (values[images].astype(np.int64) for values in (class_probs, any_probs))
    return Evidence(images, areas, areas, gains[images], *probs)


def gain_tables(
    evidence: Evidence, grid: ClassGrid, binary_thresholds: Sequence[int], fold_of: np.ndarray, num_folds: int
) -> np.ndarray:
    """The summed gains of every cell in every fold.

    Args:
        evidence: of the class, at the grid's pixel thresholds.
        grid: with axes of T, L, M and X cells.
        binary_thresholds: B values, ascending; 0 alone when the gate does not look at them.
        fold_of: (N,) the fold of each image, from 0 to K - 1.
        num_folds: K.

    Returns:
        (K, B, T, L, M, X) int64, in 1 / DICE_UNIT.
    """
    return _sum_in_cells(evidence.gains, evidence, grid, binary_thresholds, fold_of, num_folds)


def found_tables(
    evidence: Evidence, grid: ClassGrid, binary_thresholds: Sequence[int], fold_of: np.ndarray, num_folds: int
) -> np.ndarray:
    """How many images with the class each cell finds in each fold: arguments and shape are those of `gain_tables`."""
    found = np.greater(evidence.gains, 0)
    return _sum_in_cells(found, evidence, grid, binary_thresholds, fold_of, num_folds)


def _sum_in_cells(
    values: np.ndarray,
    evidence: Evidence,
    grid: ClassGrid,
    binary_thresholds: Sequence[int],
    fold_of: np.ndarray,
    num_folds: int,
) -> np.ndarray:
    """(K, B, T, L, M, X) int64 sums of (A, T) whole numbers over the images whose pixels a cell keeps."""
    at, pixel = np.nonzero(values)
    # How many of an axis's (ascending) lower limits each pair passes: it is kept in the cells before that number.
    binary = np.searchsorted(binary_thresholds, evidence.any_probs, side="right")[at]
    label = np.searchsorted(grid.label_thresholds, evidence.class_probs, side="right")[at]
    minimum = np.searchsorted(grid.min_areas, evidence.minima[at, pixel], side="right")
    maximum = np.searchsorted(grid.max_areas, evidence.areas[at, pixel], side="left")
    shape = (num_folds, len(binary_thresholds), *grid.shape)
    passes = (binary > 0) & (label > 0) & (minimum > 0)
    last = np.stack([fold_of[evidence.images[at]], binary - 1, pixel, label - 1, minimum - 1, maximum])[:, passes]
    cells = np.ravel_multi_index(tuple(last), shape)
    sums = np.bincount(cells, weights=values[at, pixel][passes], minlength=math.prod(shape))
    tables = sums.astype(np.int64).reshape(shape)
    for axis in (1, 3, 4):
        tables = np.flip(np.cumsum(np.flip(tables, axis), axis=axis), axis)
    return np.cumsum(tables, axis=5)


def smooth(tables: np.ndarray) -> np.ndarray:
    """The mean of each cell and its neighbours on all axes but the first, times `_WINDOW` for each of them."""
    for axis in range(1, tables.ndim):
        tables = _smooth_axis(tables, axis)
    return tables


def _smooth_axis(table: np.ndarray, axis: int) -> np.ndarray:
    """Weighted so that windows of 1, 2 and 3 cells all add up to `_WINDOW`."""
    if table.shape[axis] == 1:
        return table * _WINDOW
    cells = np.moveaxis(table, axis, 0)
    result = cells.copy()
    result[1:] += cells[:-1]
    result[:-1] += cells[1:]
    result[1:-1] *= _WINDOW // 3
    result[[0, -1]] *= _WINDOW // 2
    return np.moveaxis(result, 0, axis)


class Best(NamedTuple):
    """The best setting of a family at each of B binary thresholds."""

    settings: np.ndarray
    """(B,) their positions."""
    values: np.ndarray
    """(B,) int64 smoothed gains."""
    finds: np.ndarray
    """(B,) bool: the class is found as often as it must be. Where it is not, no setting of the family does that."""


@dataclass(frozen=True, eq=False)
class Family:
    """The S allowed settings of one rung of a class's ladder, those to prefer among equals first: one half leads."""

    values: np.ndarray
    """(K, B, S) int64 smoothed gains in each fold and at each binary threshold."""
    total: np.ndarray
    """(B, S) their sums over the folds."""
    found: np.ndarray
    """(K, B, S) int32 images with the class that a setting finds."""
    total_found: np.ndarray
    """(B, S) their sums over the folds."""
    present: np.ndarray
    """(K,) int64 images with the class."""
    found_at_half: np.ndarray
    """(K,) int64 those of them that a threshold of one half finds without a gate."""
    settings: np.ndarray
    """(S, 4) int64: position of the pixel threshold in the whole grid, label threshold, minimum and maximum area."""

    @classmethod
    def of(
        cls,
        gains: np.ndarray,
        found: np.ndarray,
        present: np.ndarray,
        found_at_half: np.ndarray,
        whole: ClassGrid,
        part: ClassGrid,
    ) -> "Family":
        """Cut the settings of `part` out of the tables of the `whole` grid.

        Among equal cells the one with the pixel threshold, then the label threshold nearest one half comes first, then
        the smallest minimum, then the largest maximum.
        """
        names = ("pixel_thresholds", "label_thresholds", "min_areas", "max_areas")
        places = [np.searchsorted(getattr(whole, name), getattr(part, name)) for name in names]
        cells = np.ix_(*map(np.arange, gains.shape[:2]), *places)
        order = np.ix_(
            nearest_half(part.pixel_thresholds),
            nearest_half(part.label_thresholds),
            np.arange(len(part.min_areas)),
            np.arange(len(part.max_areas))[::-1],
        )
        preferred = np.arange(math.prod(part.shape)).reshape(part.shape)[order].ravel()
        allowed = np.broadcast_to(part.allowed_windows(), part.shape).ravel()
        chosen = preferred[allowed[preferred]]
        values, counts = (
            table.reshape(*gains.shape[:2], -1)[:, :, chosen]
            for table in (smooth(gains[cells]), found[cells].astype(np.int32))
        )
        axes = np.meshgrid(places[0], part.label_thresholds, part.min_areas, part.max_areas, indexing="ij")
        settings = np.stack([axis.ravel()[chosen] for axis in axes], axis=1)
        return cls(values, values.sum(axis=0), counts, counts.sum(axis=0), present, found_at_half, settings)

    def best(self, without: Iterable[int]) -> Best:
        """The best setting at each binary threshold on all folds but some, of those that find the class if any does.

        One half where no image of these folds has the class: the others would say that it is best never answered.
        """
        left_out = list(without)
        values, found, present, at_half = (
            total - sum(part[fold] for fold in left_out)
            for total, part in (
                (self.total, self.values),
                (self.total_found, self.found),
                (self.present.sum(), self.present),
                (self.found_at_half.sum(), self.found_at_half),
            )
        )
        finds = found >= min(at_half, max(1, MIN_FOUND_SHARE * at_half))
        among = np.where(finds | ~finds.any(axis=1, keepdims=True), values, np.iinfo(np.int64).min)
        chosen = np.argmax(among, axis=1) if present else np.zeros(len(among), np.int64)
        at = np.arange(len(chosen)), chosen
        return Best(chosen, values[at], finds[at])

    def gains(
        self, chosen: np.ndarray, evidence: Evidence, at: np.ndarray, binary_thresholds: Sequence[int]
    ) -> np.ndarray:
        """What single images gain under settings.

        Args:
            chosen: (B,) positions of settings, one for each binary threshold.
            evidence: of the class.
            at: (n,) positions in the evidence.
            binary_thresholds: B values.

        Returns:
            (n, B) int64, in 1 / DICE_UNIT.
        """
        pixel, label, minimum, maximum = self.settings[chosen].T
        rows = at[:, None]
        pairs = (
            rows * evidence.areas.shape[1] + pixel
        )  # positions in the flat arrays: one index for all three is faster
        keep = (evidence.minima.take(pairs) >= minimum) & (evidence.areas.take(pairs) <= maximum)
        keep &= (evidence.class_probs[rows] >= label) & (evidence.any_probs[rows] >= np.asarray(binary_thresholds))
        return np.where(keep, evidence.gains.take(pairs), 0)

    def decision(self, position: int, pixel_thresholds: Sequence[int]) -> ClassDecision:
        """A setting as a decision; a label threshold that the gate does not look at is at one half."""
        pixel, label, minimum, maximum = (int(value) for value in self.settings[position])
        limit = None if maximum == NO_LIMIT else maximum
        return ClassDecision(pixel_thresholds[pixel], label or HALF, minimum, limit)


def nearest_half(thresholds: Sequence[int]) -> np.ndarray:
    """Positions of thresholds, nearest one half first."""
    return np.argsort(np.abs(np.asarray(thresholds) - HALF), kind="stable")
