"""Calibration: the decision that scores best on images the model was not trained on.

Exact and exhaustive over a grid (see `steel.evaluation.search`), from the statistics alone: no image is read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from steel.errors import InputError
from steel.evaluation.decision import BINARY_GATES, CLASS_GATES, GATES, HALF, ClassDecision, Decision
from steel.evaluation.explanation import explain
from steel.evaluation.scores import decide, score
from steel.evaluation.search import NO_MAXIMUM, ClassGrid, Found, gather_evidence, search_gate
from steel.evaluation.statistics import EvaluationStatistics


@dataclass(frozen=True)
class SearchSpace:
    """Which settings are tried. Thresholds are quantised probabilities, `round(255 * p)`."""

    pixel_thresholds: tuple[int, ...] = tuple(range(26, 243, 6))
    """0.10 to 0.95 in steps of 0.024."""
    label_thresholds: tuple[int, ...] = tuple(range(26, 231, 12))
    """0.10 to 0.90 in steps of 0.047; of each class and of any defect."""
    area_percentiles: tuple[float, float] = (2.0, 98.0)
    """Minima and maxima lie between these percentiles of the class's training areas; no limit is tried too."""
    area_steps: int = 16
    """Areas tried, evenly spaced in their logarithm."""


@dataclass(frozen=True)
class Calibration:
    """A decision and how it was found."""

    decision: Decision
    score: float
    """`mean_dice` of the decision on the images it was found on (so an optimistic one)."""
    objective: float
    """The same averaged over adjacent settings: what was maximised."""
    objectives: dict[str, float]
    """The best objective of every gate that was tried."""
    by_gate: dict[str, Decision]
    """The best decision of every gate that was tried."""
    explanation: tuple[str, ...]
    """What was found, in plain words, a line each for the gain, the gate and every class."""


def calibrate(
    statistics: EvaluationStatistics,
    *,
    gates: Sequence[str] = GATES,
    training_areas: np.ndarray | None = None,
    tta: tuple[str, ...] = (),
    space: SearchSpace | None = None,
    class_names: Sequence[str] | None = None,
) -> Calibration:
    """Find the decision with the best mean Dice, averaged over adjacent settings.

    A class that no image has cannot be calibrated: it keeps thresholds of one half and no limits. Label thresholds that
    the winning gate does not use do not touch the masks; they are set to the best F1 of the head (averaged over
    adjacent thresholds), so that its labels mean something.

    Args:
        statistics: of images that the model was not trained on.
        gates: those to try; the first of equals wins.
        training_areas: (M, C) pixels of each class in M training images at their original size (0s, for images without
            it, are left out); those of `statistics` when None.
        tta: the flipped views behind the statistics, to be recorded.
        space: the settings to try.
        class_names: for the explanation; class 1, class 2, ... when None.

    Raises:
        InputError: there are no images.
    """
    if len(statistics) == 0:
        raise InputError("calibration: there are no images in these folds; choose others")
    space = space or SearchSpace()
    true_areas = statistics.true_areas
    areas = true_areas if training_areas is None else training_areas
    assert areas.shape[1:] == (statistics.num_classes,), (areas.shape, statistics.num_classes)
    grids = [_class_grid(space, a, bool(t.any())) for a, t in zip(areas.T, true_areas.T, strict=True)]
    evidence = [
        gather_evidence(statistics.histograms[:, k], statistics.label_probs[:, 1 + k], grid.pixel_thresholds)
        for k, grid in enumerate(grids)
    ]
    binary_probs = statistics.label_probs[:, 0]
    found = {gate: search_gate(evidence, grids, gate, binary_probs, space.label_thresholds) for gate in gates}
    gate = max(found, key=lambda name: found[name].objective)
    by_gate = {name: _complete(f, name, statistics, space, tta) for name, f in found.items()}
    decision = by_gate[gate]
    objectives = {name: f.objective for name, f in found.items()}
    class_names = class_names or [f"class {1 + k}" for k in range(statistics.num_classes)]
    return Calibration(
        decision=decision,
        score=float(score(decide(statistics, decision)).mean_dice),
        objective=found[gate].objective,
        objectives=objectives,
        by_gate=by_gate,
        explanation=explain(decision, objectives, statistics, class_names),
    )


def _class_grid(space: SearchSpace, training_areas: np.ndarray, present: bool) -> ClassGrid:
    if not present:
        return ClassGrid((HALF,), (HALF,), (0,), (NO_MAXIMUM,))
    areas = area_candidates(training_areas, space)
    return ClassGrid(space.pixel_thresholds, space.label_thresholds, (0, *areas), (*areas, NO_MAXIMUM))


def area_candidates(training_areas: np.ndarray, space: SearchSpace) -> tuple[int, ...]:
    """Whole areas between two percentiles of the positive ones, evenly spaced in their logarithm; ascending."""
    positive = training_areas[training_areas > 0]
    if not len(positive):
        return ()
    low, high = np.percentile(positive, space.area_percentiles)
    return tuple(int(area) for area in np.unique(np.rint(np.geomspace(low, high, space.area_steps))))


def _complete(
    found: Found, gate: str, statistics: EvaluationStatistics, space: SearchSpace, tta: tuple[str, ...]
) -> Decision:
    """The found settings, with the label thresholds that the gate leaves open."""
    present = np.greater(statistics.true_areas, 0)
    classes: Sequence[ClassDecision] = found.classes
    if gate not in CLASS_GATES:
        label_probs = statistics.label_probs[:, 1:]
        classes = [
            replace(c, label_threshold=best_label_threshold(label_probs[:, k], present[:, k], space.label_thresholds))
            for k, c in enumerate(classes)
        ]
    binary = found.binary_threshold
    if gate not in BINARY_GATES:
        binary = best_label_threshold(statistics.label_probs[:, 0], present.any(axis=1), space.label_thresholds)
    return Decision(tuple(classes), gate, binary, tta)


def best_label_threshold(label_probs: np.ndarray, true: np.ndarray, thresholds: Sequence[int]) -> int:
    """The threshold with the best F1 averaged with its neighbours', nearest one half among equals.

    Args:
        label_probs: (N,) uint8.
        true: (N,) bool.
        thresholds: to try, ascending.

    Returns:
        One of the thresholds; one half when no image has the label.
    """
    if not true.any():
        return HALF
    said = label_probs >= np.asarray(thresholds)[:, None]
    hits = np.count_nonzero(said & true, axis=1)
    f1 = 2 * hits / (np.count_nonzero(said, axis=1) + np.count_nonzero(true))
    window = np.ones(3)
    smoothed = (np.convolve(f1, window) / np.convolve(np.ones(len(f1)), window))[1:-1]
    equal = np.isclose(smoothed, smoothed.max(), rtol=0, atol=1e-12)
    return min(np.asarray(thresholds)[equal].tolist(), key=lambda threshold: abs(threshold - HALF))
