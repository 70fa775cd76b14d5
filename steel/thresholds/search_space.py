"""Which settings the search tries: grids of thresholds and areas, and the ladder from the simplest of them to all."""

from dataclasses import dataclass, replace

import numpy as np

from steel.decision import HALF
from steel.gates import NO_LIMIT
from steel.metrics.bootstrap import FEWEST_IMAGES

MIN_WINDOW_AREAS = 5
"""A window of areas holds at least so many of the class's training areas, ..."""
MIN_WINDOW_SHARE = 0.1
"""... and at least this share of them: what drops nearly every defect is no window but a way to answer nothing."""
MIN_FOUND_SHARE = 0.1
"""Settings find a class in at least this share of as many images as a threshold of one half does, and in one. Where few
images have a class, mean Dice is often best when it is never answered; but then nobody looks for it any more."""


@dataclass(frozen=True)
class SearchSpace:
    """Which settings are tried. Thresholds are quantised probabilities, `round(255 * p)`; one half is among them."""

    pixel_thresholds: tuple[int, ...] = tuple(range(16, 241, 16))
    """0.06 to 0.94 in steps of 0.063."""
    label_thresholds: tuple[int, ...] = tuple(range(32, 225, 24))
    """0.13 to 0.88 in steps of 0.094; of each class and of any defect."""
    area_percentiles: tuple[float, float] = (2.0, 98.0)
    """Minima and maxima lie between these percentiles of the class's training areas; no limit is tried too."""
    area_steps: int = 8
    """Areas tried, evenly spaced in their logarithm."""
    noise_factor: float = 1.1
    """A richer family is taken when it gains, cross-fitted, more than so many standard errors. What a single image
    gains is exactly one of them, so that no image decides alone."""
    confidence: float | None = 0.95
    """The tuned decision as a whole replaces thresholds of one half when the interval of its cross-fitted gain, by
    Student's t over the images, or groups of them, lies above 0 with this confidence; always, when None."""
    fewest: int = FEWEST_IMAGES
    """Of fewer images, or groups of them, no interval shows anything."""

    def __post_init__(self) -> None:
        assert HALF in self.pixel_thresholds, self.pixel_thresholds
        assert HALF in self.label_thresholds, self.label_thresholds


@dataclass(frozen=True, eq=False)
class ClassGrid:
    """The settings tried for one class, each axis ascending."""

    pixel_thresholds: tuple[int, ...]
    label_thresholds: tuple[int, ...]
    """0 alone, which everything passes, where the gate does not look at the class's label."""
    min_areas: tuple[int, ...]
    """The first one is 0."""
    max_areas: tuple[int, ...]
    """The last one is `NO_LIMIT`."""
    training_areas: np.ndarray
    """(M,) pixels of the class in the training images that have it."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Settings on each axis."""
        return len(self.pixel_thresholds), len(self.label_thresholds), len(self.min_areas), len(self.max_areas)

    def allowed_windows(self) -> np.ndarray:
        """(minima, maxima) bool: no limits, and what is wide enough to hold a fair part of the training areas."""
        areas = np.sort(self.training_areas)
        below = np.searchsorted(areas, self.min_areas, side="left")
        up_to = np.searchsorted(areas, self.max_areas, side="right")
        enough = max(MIN_WINDOW_AREAS, MIN_WINDOW_SHARE * len(areas))
        wide = (up_to - below[:, None] >= enough) & np.less.outer(self.min_areas, self.max_areas)
        return wide | np.logical_and.outer(np.equal(self.min_areas, 0), np.equal(self.max_areas, NO_LIMIT))


def ladder(grid: ClassGrid) -> dict[str, ClassGrid]:
    """Nested families of settings, from one half alone to the whole grid; a rung that adds no setting is left out."""
    minimum = replace(grid, max_areas=(NO_LIMIT,))
    thresholds = replace(minimum, min_areas=(0,))
    label = grid.label_thresholds if len(grid.label_thresholds) == 1 else (HALF,)
    rungs = {"one half": replace(thresholds, pixel_thresholds=(HALF,), label_thresholds=label)}
    for name, rung in (("thresholds", thresholds), ("minimum area", minimum), ("maximum area", grid)):
        if rung.shape != list(rungs.values())[-1].shape:
            rungs[name] = rung
    return rungs


def class_grid(space: SearchSpace, training_areas: np.ndarray, present: bool) -> ClassGrid:
    """The grid of one class; one half alone when no tuned image has it.

    Args:
        space: what is tried.
        training_areas: (M,) pixels of the class in training images; 0s are left out.
        present: whether any of the tuned images has the class.
    """
    positive = training_areas[training_areas > 0]
    if not present:
        return ClassGrid((HALF,), (HALF,), (0,), (NO_LIMIT,), positive)
    areas = area_candidates(positive, space)
    return ClassGrid(space.pixel_thresholds, space.label_thresholds, (0, *areas), (*areas, NO_LIMIT), positive)


def area_candidates(positive: np.ndarray, space: SearchSpace) -> tuple[int, ...]:
    """Whole areas between two percentiles of some positive ones, evenly spaced in their logarithm; ascending."""
    if len(positive) < MIN_WINDOW_AREAS:
        return ()
    low, high = np.percentile(positive, space.area_percentiles)
    return tuple(int(area) for area in np.unique(np.rint(np.geomspace(low, high, space.area_steps))))
