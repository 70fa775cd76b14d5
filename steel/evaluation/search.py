"""The exhaustive search behind calibration: the score of every cell of a grid of settings, in integers.

For one class and one gate the grid has five axes: binary threshold, pixel threshold, label threshold, minimum area and
maximum area (an axis that the gate does not use has one cell). Dropping a pair's pixels changes its Dice to 1 when the
class is not there and to 0 when it is; what keeping them *gains* over that is known for each image and pixel threshold
from its histograms. A cell's score is the sum of the gains of the images that pass its other four limits: one
histogram of gains over the limits each image reaches, cumulated along each axis, gives all cells at once.

Cells are compared by the mean over the cell and its neighbours one step away on every axis (up to 3^5 cells, fewer at
the grid's border; a neighbour whose minimum is above its maximum is no setting to choose, but counts with the answers
it would give). So a broad plateau wins over a narrow peak. Gains are whole multiples of `1 / DICE_UNIT`, and sums of
them exact: equal cells are equal, and the result does not depend on the order of the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steel.evaluation.counts import INSIDE, dice
from steel.evaluation.decision import BINARY_GATES, CLASS_GATES, HALF, ClassDecision

DICE_UNIT = 2**26
"""Dice is rounded to multiples of 1 / DICE_UNIT (7e-9); with it sums over 8 million images fit 64 bits."""
NO_MAXIMUM = int(np.iinfo(np.int64).max)

_WINDOW = 6
"""Weights of an axis's window of 1, 2 or 3 cells add up to this, so that all cells share a denominator."""
_NUM_AXES = 5
_CELL_UNIT = DICE_UNIT * _WINDOW**_NUM_AXES


@dataclass(frozen=True)
class ClassGrid:
    """The settings tried for one class, each ascending."""

    pixel_thresholds: tuple[int, ...]
    label_thresholds: tuple[int, ...]
    min_areas: tuple[int, ...]
    max_areas: tuple[int, ...]
    """The last one is `NO_MAXIMUM`."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the search needs of one class in N images, at the T pixel thresholds of its grid."""

    areas: np.ndarray
    """(N, T) int64 predicted pixels."""
    gains: np.ndarray
    """(N, T) int64: Dice when the pixels are kept less Dice when they are dropped, in 1 / DICE_UNIT."""
    label_probs: np.ndarray
    """(N,) int64, 0 to 255."""
    num_empty: int
    """Images without the class: the score of never answering it."""


def gather_evidence(histograms: np.ndarray, label_probs: np.ndarray, pixel_thresholds: Sequence[int]) -> Evidence:
    """Read areas and Dice at all pixel thresholds off one class's histograms.

    Args:
        histograms: (N, 2, 256) integer counts.
        label_probs: (N,) uint8.
        pixel_thresholds: ascending.
    """
    between = np.add.reduceat(histograms, np.asarray(pixel_thresholds), axis=-1, dtype=np.int64)
    above = between[..., ::-1].cumsum(axis=-1)[..., ::-1]
    areas, intersections = above.sum(axis=1), above[:, INSIDE]
    true = histograms[:, INSIDE].sum(axis=-1, dtype=np.int64)
    pair_dice = dice(np.stack([intersections, areas, np.broadcast_to(true[:, None], areas.shape)], axis=-1))
    dropped = (true == 0).astype(np.float64)
    gains = np.rint((pair_dice - dropped[:, None]) * DICE_UNIT).astype(np.int64)
    return Evidence(areas, gains, label_probs.astype(np.int64), int(np.count_nonzero(true == 0)))


def soft_areas(areas: np.ndarray, class_probs: np.ndarray) -> np.ndarray:
    """The largest minimum that each area still passes under the `soft` gate: `floor(area * q / (255 - q))`.

    Args:
        areas: (K,) int64.
        class_probs: (K,) int64 quantised probabilities q; 255 passes every minimum.
    """
    against = 255 - class_probs
    return np.where(against == 0, NO_MAXIMUM, areas * class_probs // np.maximum(against, 1))


def gain_table(
    evidence: Evidence, grid: ClassGrid, gate: str, binary_probs: np.ndarray, binary_thresholds: Sequence[int]
) -> np.ndarray:
    """The summed gains of every cell.

    Args:
        evidence: of the class, at the grid's pixel thresholds.
        grid: with axes of T, L, M and X cells; L becomes 1 when the gate does not look at the class's label.
        gate: one of `GATES`.
        binary_probs: (N,) the head's quantised probability of any defect.
        binary_thresholds: B values, ascending; one when the gate does not look at them.

    Returns:
        (B, T, L, M, X) int64, in 1 / DICE_UNIT.
    """
    image, pixel = np.nonzero(evidence.gains)
    gains, areas, class_probs = evidence.gains[image, pixel], evidence.areas[image, pixel], evidence.label_probs[image]
    label_thresholds = grid.label_thresholds if gate in CLASS_GATES else (0,)
    # How many of an axis's (ascending) lower limits each pair passes: it is kept in the cells before that number.
    binary = np.searchsorted(binary_thresholds if gate in BINARY_GATES else (0,), binary_probs[image], side="right")
    label = np.searchsorted(label_thresholds, class_probs, side="right")
    lower = soft_areas(areas, class_probs) if gate == "soft" else areas
    minimum = np.searchsorted(grid.min_areas, lower, side="right")
    maximum = np.searchsorted(grid.max_areas, areas, side="left")
    shape = (
        len(binary_thresholds) if gate in BINARY_GATES else 1,
        len(grid.pixel_thresholds),
        len(label_thresholds),
        len(grid.min_areas),
        len(grid.max_areas),
    )
    passes = (binary > 0) & (label > 0) & (minimum > 0)
    last = np.stack([binary - 1, pixel, label - 1, minimum - 1, maximum])[:, passes]
    cells = np.ravel_multi_index(tuple(last), shape)
    sums = np.bincount(cells, weights=gains[passes], minlength=int(np.prod(shape)))
    table = sums.astype(np.int64).reshape(shape)
    for axis in (0, 2, 3):
        table = np.flip(np.cumsum(np.flip(table, axis), axis=axis), axis)
    return np.cumsum(table, axis=4)


def smooth(table: np.ndarray) -> np.ndarray:
    """The mean of each cell and its neighbours, in 1 / `_CELL_UNIT` when the table is in 1 / DICE_UNIT."""
    for axis in range(table.ndim):
        table = _smooth_axis(table, axis)
    return table


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


@dataclass(frozen=True)
class Found:
    """The best cell of a gate."""

    objective: float
    """Mean Dice over all images and classes, averaged over adjacent cells."""
    binary_threshold: int
    classes: tuple[ClassDecision, ...]
    """Thresholds that the gate does not use are at one half."""


def search_gate(
    evidence: Sequence[Evidence],
    grids: Sequence[ClassGrid],
    gate: str,
    binary_probs: np.ndarray,
    binary_thresholds: Sequence[int],
) -> Found:
    """The best cell for all classes together; they share nothing but the binary threshold.

    Among equal cells the one with the pixel threshold, then the label threshold nearest one half wins, then the
    smallest minimum, then the largest maximum; among equal binary thresholds the one nearest one half.
    """
    best = [
        _best_cells(gain_table(e, g, gate, binary_probs, binary_thresholds), g, gate)
        for e, g in zip(evidence, grids, strict=True)
    ]
    totals = np.sum([values for values, _ in best], axis=0)
    order = _nearest_half(binary_thresholds) if gate in BINARY_GATES else np.zeros(1, np.int64)
    chosen = int(order[np.argmax(totals[order])])
    num_images, num_classes = len(binary_probs), len(grids)
    objective = (sum(e.num_empty for e in evidence) + int(totals[chosen]) / _CELL_UNIT) / (num_images * num_classes)
    return Found(
        objective=objective,
        binary_threshold=binary_thresholds[chosen] if gate in BINARY_GATES else HALF,
        classes=tuple(decisions[chosen] for _, decisions in best),
    )


def _best_cells(table: np.ndarray, grid: ClassGrid, gate: str) -> tuple[np.ndarray, list[ClassDecision]]:
    """For each binary threshold the best smoothed value (B,) and its cell, preferred cells first among equals."""
    label_thresholds = grid.label_thresholds if gate in CLASS_GATES else (HALF,)
    preferred = np.ix_(
        _nearest_half(grid.pixel_thresholds),
        _nearest_half(label_thresholds),
        np.arange(len(grid.min_areas)),
        np.arange(len(grid.max_areas))[::-1],
    )
    possible = np.less_equal.outer(grid.min_areas, grid.max_areas)[preferred[2:]]
    order = np.arange(table[0].size).reshape(table.shape[1:])[preferred][:, :, *np.nonzero(possible[0, 0])].ravel()
    values = smooth(table).reshape(len(table), -1)[:, order]
    first = np.argmax(values, axis=1)
    decisions = []
    for cell in order[first]:
        pixel, label, minimum, maximum = np.unravel_index(cell, table.shape[1:])
        limit = grid.max_areas[maximum]
        decisions.append(
            ClassDecision(
                grid.pixel_thresholds[pixel],
                label_thresholds[label],
                grid.min_areas[minimum],
                None if limit == NO_MAXIMUM else limit,
            )
        )
    return values[np.arange(len(values)), first], decisions


def _nearest_half(thresholds: Sequence[int]) -> np.ndarray:
    """Positions of thresholds, nearest one half first."""
    return np.argsort(np.abs(np.asarray(thresholds) - HALF), kind="stable")
