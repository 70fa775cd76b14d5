"""Calibration against a brute force that applies every setting of a small grid to the images themselves."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from steel.errors import InputError
from steel.evaluation.calibration import SearchSpace, area_candidates, best_label_threshold, calibrate
from steel.evaluation.counts import dice, pair_counts
from steel.evaluation.decision import (
    BINARY_GATES,
    CLASS_GATES,
    GATES,
    HALF,
    ClassDecision,
    Decision,
    apply_decision,
    default_decision,
)
from steel.evaluation.scores import decide, score
from steel.evaluation.search import NO_MAXIMUM, ClassGrid, gather_evidence, search_gate
from steel.evaluation.statistics import EvaluationStatistics, image_statistics

NUM_CLASSES = 2


class Images:
    """A few small images with probabilities that tell something of the truth, and some false alarms."""

    def __init__(self, seed: int, num: int = 14) -> None:
        rng = np.random.default_rng(seed)
        shape = (num, NUM_CLASSES, 8, 10)
        truth = np.zeros(shape, bool)
        for i, k in itertools.product(range(num), range(NUM_CLASSES)):
            if rng.random() < 0.5:
                y, x, h, w = rng.integers([0, 0, 2, 2], [6, 7, 6, 7])
                truth[i, k, y : y + h, x : x + w] = True
        present = truth.any(axis=(2, 3))
        strength = np.where(present, rng.uniform(40, 200, present.shape), rng.uniform(0, 120, present.shape))
        noise = rng.normal(40, 35, shape)
        alarms = rng.random(shape) < rng.uniform(0, 0.3, present.shape)[..., None, None]
        self.mask_probs = np.clip(noise + strength[..., None, None] * (truth | alarms), 0, 255).astype(np.uint8)
        any_and_each = np.concatenate([present.any(axis=1, keepdims=True), present], axis=1)
        self.label_probs = np.clip(rng.normal(70, 60, any_and_each.shape) + 110 * any_and_each, 0, 255).astype(np.uint8)
        self.bitmasks = (truth[:, 0] + 2 * truth[:, 1]).astype(np.uint8)

    def statistics(self) -> EvaluationStatistics:
        parts = zip(self.mask_probs, self.label_probs, self.bitmasks, strict=True)
        return EvaluationStatistics.from_images(
            (image_statistics(i, *part) for i, part in enumerate(parts)), NUM_CLASSES
        )

    def mean_dice(self, decision: Decision) -> float:
        """Kaggle's score, from the pixels."""
        pairs = [
            dice(pair_counts(apply_decision(decision, p, q), b))
            for p, q, b in zip(self.mask_probs, self.label_probs, self.bitmasks, strict=True)
        ]
        return float(np.mean(pairs))


GRID = ClassGrid((60, 100, 128, 190), (50, 128, 180), (0, 12, 30), (12, 30, NO_MAXIMUM))
BINARY_THRESHOLDS = (60, 128, 200)


def brute_force(images: Images, gate: str, grid: ClassGrid) -> tuple[float, int, tuple[ClassDecision, ...]]:
    """The best mean over adjacent cells, found by answering the images in every cell, a class at a time."""
    binaries = BINARY_THRESHOLDS if gate in BINARY_GATES else (HALF,)
    label_thresholds = grid.label_thresholds if gate in CLASS_GATES else (HALF,)
    axes = (grid.pixel_thresholds, label_thresholds, grid.min_areas, grid.max_areas)
    tables = np.zeros((NUM_CLASSES, len(binaries), *map(len, axes)))
    for k in range(NUM_CLASSES):
        single = Images.__new__(Images)
        single.mask_probs = images.mask_probs[:, k : k + 1]
        single.label_probs = images.label_probs[:, [0, 1 + k]]
        single.bitmasks = (images.bitmasks >> k) & 1
        for cell in np.ndindex(*tables.shape[1:]):
            pixel, label, minimum, maximum = (axis[i] for axis, i in zip(axes, cell[1:], strict=True))
            decision = Decision((ClassDecision(pixel, label, minimum, None),), gate, binaries[cell[0]])
            # Neighbours with a minimum above the maximum count too, though no such decision can be made.
            object.__setattr__(decision.classes[0], "max_area", maximum)
            tables[(k, *cell)] = single.mean_dice(decision)
    best: tuple[float, int, tuple[ClassDecision, ...]] = (-1.0, 0, ())
    for b, binary in enumerate(binaries):
        total, chosen = 0.0, []
        for k in range(NUM_CLASSES):
            value, cell = max(
                (float(tables[k][window((b, *cell), tables.shape[1:])].mean()), cell)
                for cell in np.ndindex(*map(len, axes))
                if grid.min_areas[cell[2]] <= grid.max_areas[cell[3]]
            )
            pixel, label, minimum, maximum = (axis[i] for axis, i in zip(axes, cell, strict=True))
            chosen.append(ClassDecision(pixel, label, minimum, None if maximum == NO_MAXIMUM else maximum))
            total += value / NUM_CLASSES
        best = max(best, (total, binary, tuple(chosen)), key=lambda found: found[0])
    return best


def window(cell: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The cell and its neighbours one step away, within the grid."""
    return tuple(slice(max(i - 1, 0), min(i + 2, n)) for i, n in zip(cell, shape, strict=True))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_agrees_with_brute_force(gate: str, seed: int) -> None:
    images = Images(seed)
    statistics = images.statistics()
    evidence = [
        gather_evidence(statistics.histograms[:, k], statistics.label_probs[:, 1 + k], GRID.pixel_thresholds)
        for k in range(NUM_CLASSES)
    ]
    found = search_gate(evidence, [GRID] * NUM_CLASSES, gate, statistics.label_probs[:, 0], BINARY_THRESHOLDS)
    objective, binary, classes = brute_force(images, gate, GRID)
    assert found.objective == pytest.approx(objective, abs=1e-7)
    assert (found.binary_threshold, found.classes) == (binary, classes)


@pytest.mark.parametrize("gate", GATES)
def test_the_reported_score_is_the_score_on_the_images(gate: str) -> None:
    images = Images(3)
    found = calibrate(images.statistics(), gates=(gate,), tta=("hflip",))
    assert found.decision.gate == gate
    assert found.decision.tta == ("hflip",)
    assert found.score == pytest.approx(images.mean_dice(found.decision), abs=1e-12)


def test_the_best_gate_wins_and_all_are_reported() -> None:
    found = calibrate(Images(4).statistics())
    assert tuple(found.objectives) == GATES
    assert found.objectives[found.decision.gate] == found.objective == max(found.objectives.values())


def test_calibration_does_not_depend_on_how_images_were_dealt_to_ranks() -> None:
    statistics = Images(5).statistics()
    odd = np.arange(len(statistics)) % 2 == 1
    joined = EvaluationStatistics.concat([statistics.select(odd), statistics.select(~odd)])
    assert calibrate(joined) == calibrate(statistics)


def constant_statistics(mask_prob: int, label_prob: int, *, num: int = 4, area: int = 50) -> EvaluationStatistics:
    """Images of one class: half have `area` true pixels, predicted perfectly with `mask_prob`; the others are clean."""
    histograms = np.zeros((num, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 100
    histograms[::2, 0, 1, mask_prob] = area
    label_probs = np.zeros((num, 2), np.uint8)
    label_probs[::2] = label_prob
    return EvaluationStatistics(np.arange(num), histograms, label_probs)


def test_among_equals_thresholds_nearest_one_half_and_no_limits_win() -> None:
    found = calibrate(constant_statistics(255, 255))
    nearest = min(SearchSpace().pixel_thresholds, key=lambda t: abs(t - HALF))
    assert found.decision.gate == "none"
    assert found.decision.classes[0].pixel_threshold == nearest
    assert (found.decision.classes[0].min_area, found.decision.classes[0].max_area) == (0, None)
    assert found.score == found.objective == 1.0


def test_plateaus_win_over_peaks() -> None:
    # Two of three are right at thresholds of 40 to 100 (a false alarm stands), and at 200 alone (an image is lost).
    space = SearchSpace(pixel_thresholds=(40, 60, 80, 100, 180, 200, 220), label_thresholds=(128,), area_steps=1)
    histograms = np.zeros((3, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 1000
    histograms[0, 0, 1, 100] = 60  # found up to 100
    histograms[1, 0, 1, 219] = 60  # found up to 200
    histograms[2, 0, 0, 199] = 60  # a false alarm of the same area, up to 180
    statistics = EvaluationStatistics(np.arange(3), histograms, np.full((3, 2), 255, np.uint8))
    by_threshold = {
        t: float(score(decide(statistics, Decision((ClassDecision(t),)))).mean_dice) for t in space.pixel_thresholds
    }
    assert by_threshold[200] == by_threshold[100] == by_threshold[80] == pytest.approx(2 / 3)
    assert calibrate(statistics, gates=("none",), space=space).decision.classes[0].pixel_threshold == 80


def test_areas_are_searched_between_percentiles_of_the_training_areas() -> None:
    areas = np.concatenate([np.zeros(500, int), np.arange(1, 1002)])
    candidates = area_candidates(areas, SearchSpace())
    assert (candidates[0], candidates[-1]) == (21, 981)
    assert len(candidates) == 16
    ratios = np.divide(candidates[1:], candidates[:-1])
    assert ratios.max() / ratios.min() < 1.05
    assert area_candidates(np.zeros(3, int), SearchSpace()) == ()


def test_given_training_areas_bound_the_limits() -> None:
    images = Images(6)
    low, high = 20, 25
    found = calibrate(images.statistics(), training_areas=np.array([[low, high], [22, 0], [high, low]]))
    for chosen in found.decision.classes:
        assert chosen.min_area == 0 or low <= chosen.min_area <= high
        assert chosen.max_area is None or low <= chosen.max_area <= high


def test_a_class_that_no_image_has_is_left_alone() -> None:
    images = Images(7)
    images.bitmasks &= 1
    found = calibrate(images.statistics(), gates=("class",))
    assert found.decision.classes[1] == ClassDecision()
    assert found.explanation[3] == "class 2: no image here has it, so it keeps a threshold of one half and no limits"


@pytest.mark.parametrize("gate", GATES)
def test_label_thresholds_serve_the_gate_that_uses_them_and_the_best_f1_where_none_does(gate: str) -> None:
    # Three positives called at 90 whose masks are missed, three false alarms called at 100, three good ones at 220.
    histograms = np.zeros((9, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 1000
    histograms[0:3, 0, 1, 0] = 60
    histograms[3:6, 0, 0, 255] = 60
    histograms[6:9, 0, 1, 255] = 60
    label_probs = np.repeat(np.array([90, 100, 220], np.uint8), 3)[:, None].repeat(2, axis=1)
    decision = calibrate(EvaluationStatistics(np.arange(9), histograms, label_probs), gates=(gate,)).decision
    # The best F1 takes all nine (0.8 against 0.67), the best Dice leaves the false alarms out.
    assert (decision.classes[0].label_threshold > 100) == (gate in CLASS_GATES)
    assert (decision.binary_threshold > 100) == (gate in BINARY_GATES)


def test_best_label_threshold_of_worked_probabilities() -> None:
    probs = np.array([10, 60, 110, 160, 210], np.uint8)
    true = np.array([False, False, True, True, True])
    # F1 at 50, 100, 150, 200: 6/7, 1, 4/5, 1/2; averaged with neighbours: 0.929, 0.886, 0.767, 0.65.
    assert best_label_threshold(probs, true, (50, 100, 150, 200)) == 50
    assert best_label_threshold(probs, np.zeros(5, bool), (50, 100)) == HALF
    assert best_label_threshold(probs[3:], true[3:], (50, 100, 150)) == 150  # all are perfect; this is nearest one half


def test_the_explanation_says_what_was_gained() -> None:
    statistics = constant_statistics(100, 255)
    found = calibrate(statistics, gates=("none",), class_names=["scratch"])
    gain, gate, scratch = found.explanation
    assert gain == (
        "calibrated on 4 images: mean Dice 0.5000 with every threshold at one half, now 1.0000; "
        "answering nothing gets 0.5000"
    )
    assert gate == "gate none: the segmentation alone decides"
    threshold = found.decision.classes[0].pixel_threshold / 255
    assert scratch == (
        f"scratch: pixels from {threshold:.2f}; Dice 0.5000 -> 1.0000, the floor is 0.5000 "
        "(2 images have it): few, so this rests on little"
    )


def test_calibration_needs_images() -> None:
    with pytest.raises(InputError, match="no images"):
        calibrate(EvaluationStatistics.from_images([], 2))


def test_calibration_never_loses_to_a_default_within_its_grid() -> None:
    space = replace(SearchSpace(), pixel_thresholds=(HALF,), label_thresholds=(HALF,))
    for seed in range(5):
        statistics = Images(seed, num=30).statistics()
        before = float(score(decide(statistics, default_decision(NUM_CLASSES))).mean_dice)
        found = calibrate(statistics, space=space, gates=("none",), training_areas=np.zeros((1, NUM_CLASSES)))
        assert found.score == pytest.approx(before)
