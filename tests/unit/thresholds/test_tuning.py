"""Threshold tuning against a brute force that applies every setting of a small grid to the images themselves."""

import itertools

import numpy as np
import pytest

from bench.quality.thresholds import NETWORKS, resample
from steel.decision import (
    HALF,
    ClassDecision,
    Decision,
    apply_decision,
    default_decision,
)
from steel.errors import InputError
from steel.gates import GATES, NO_LIMIT
from steel.metrics.counts import dice
from steel.metrics.scores import decide, score
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.thresholds.search import DICE_UNIT
from steel.thresholds.search_space import ClassGrid, SearchSpace, area_candidates
from steel.thresholds.tuning import Tuner, Tuning, best_label_threshold, tune_thresholds
from tests.plain_counts import pair_counts

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

    def mean_dice(self, decision: Decision, some: np.ndarray | None = None) -> float:
        """Kaggle's score of all images or some, from the pixels."""
        pairs = [
            dice(pair_counts(apply_decision(decision, self.mask_probs[i], self.label_probs[i]), self.bitmasks[i]))
            for i in (range(len(self.bitmasks)) if some is None else some)
        ]
        return float(np.mean(pairs))


ASK_ANY, ASK_CLASS = ("binary", "binary+class"), ("class", "binary+class")
SPACE = SearchSpace(pixel_thresholds=(60, 100, 128, 190), label_thresholds=(50, 128, 180), area_steps=3)


class BruteForce:
    """Everything that threshold tuning does, setting by setting and image by image, from the pixels."""

    def __init__(self, images: Images, gate: str, training_areas: np.ndarray) -> None:
        self.num = len(images.bitmasks)
        self.binaries = SPACE.label_thresholds if gate in ASK_ANY else (HALF,)
        self.labels = SPACE.label_thresholds if gate in ASK_CLASS else (HALF,)
        self.gate = gate
        self.areas = [self._area_axis(training_areas[:, k]) for k in range(NUM_CLASSES)]
        self.allowed = [self._windows(training_areas[:, k], self.areas[k]) for k in range(NUM_CLASSES)]
        self.dice = [self._table(images, k) for k in range(NUM_CLASSES)]

    @staticmethod
    def _area_axis(areas: np.ndarray) -> list[int]:
        low, high = np.percentile(areas[areas > 0], [2, 98])
        return sorted({round(float(low * (high / low) ** share)) for share in (0, 0.5, 1)})

    @staticmethod
    def _windows(areas: np.ndarray, axis: list[int]) -> np.ndarray:
        """Five training areas and a tenth of them all lie in a window, or it has no limits."""
        positive = areas[areas > 0].tolist()

        def allowed(low: int, high: float) -> bool:
            held = sum(low <= area <= high for area in positive)
            return (low, high) == (0, NO_LIMIT) or (low < high and held >= 5 and held >= len(positive) / 10)

        return np.array([[allowed(low, high) for high in (*axis, NO_LIMIT)] for low in (0, *axis)])

    def _table(self, images: Images, k: int) -> np.ndarray:
        """(N, binary, pixel, label, minimum, maximum) Dice of class k, counted in the pixels."""
        true = (images.bitmasks >> k) & 1 == 1
        masks = images.mask_probs[:, k, None] >= np.reshape(SPACE.pixel_thresholds, (-1, 1, 1))
        areas, common = masks.sum(axis=(2, 3)), (masks & true[:, None]).sum(axis=(2, 3))
        sizes = areas + true.sum(axis=(1, 2))[:, None]
        answered, dropped = np.where(sizes == 0, 1, 2 * common / np.maximum(sizes, 1)), ~true.any(axis=(1, 2))
        any_prob, class_prob = (images.label_probs[:, i, None].astype(int) for i in (0, 1 + k))
        table = np.zeros((self.num, len(self.binaries), *areas.shape[1:], len(self.labels), *self.allowed[k].shape))
        for cell in itertools.product(*map(range, table.shape[3:]), range(len(self.binaries))):
            label, low, high, binary = self.labels[cell[0]], (0, *self.areas[k])[cell[1]], cell[2], cell[3]
            keep = areas * class_prob >= low * (255 - class_prob) if self.gate == "soft" else areas >= low
            keep = keep & (areas <= (*self.areas[k], NO_LIMIT)[high])
            keep &= (any_prob >= self.binaries[binary]) | (self.gate not in ASK_ANY)
            keep &= (class_prob >= label) | (self.gate not in ASK_CLASS)
            table[:, binary, :, cell[0], cell[1], high] = np.where(keep, answered, dropped[:, None])
        return table

    def best_cell(self, k: int, rung: int, binary: int, images: np.ndarray) -> tuple[float, tuple[int, ...]]:
        """The best mean over adjacent cells of a rung, on some images: (value, cell of the whole grid)."""
        half = SPACE.pixel_thresholds.index(HALF), self.labels.index(HALF)
        shape = self.dice[k].shape[1:]
        cut = [
            range(shape[0]),
            range(half[0], half[0] + 1) if rung == 0 else range(shape[1]),
            range(half[1], half[1] + 1) if rung == 0 else range(shape[2]),
            range(1) if rung < 2 else range(shape[3]),
            range(shape[4] - 1, shape[4]) if rung < 3 else range(shape[4]),
        ]
        mean = self.dice[k][images].mean(axis=0)
        values = []
        for cell in itertools.product(*cut[1:]):
            if self.allowed[k][cell[2:]]:
                near = [
                    [i for i in (c - 1, c, c + 1) if i in axis] for c, axis in zip((binary, *cell), cut, strict=True)
                ]
                nearest = abs(SPACE.pixel_thresholds[cell[0]] - HALF), abs(self.labels[cell[1]] - HALF)
                preferred = (-nearest[0], -nearest[1], -cell[2], cell[3])
                values.append((round(float(mean[np.ix_(*near)].mean()), 9), preferred, cell))
        value, _, cell = max(values)
        return value, (binary, *cell)

    def fit(self, folds: np.ndarray, among: list[int]) -> tuple[np.ndarray, Decision]:
        """(N,) cross-fitted Dice summed over classes, and the decision, on the images of some folds."""
        known = np.flatnonzero(np.isin(folds, among))
        held, totals, decisions = {}, {}, {}
        for binary in range(len(self.binaries)):
            held[binary], totals[binary], classes = np.zeros(self.num), {None: 0.0} | dict.fromkeys(among, 0.0), []
            for k in range(NUM_CLASSES):
                rung, mine = 0, self._crossfit(k, 0, binary, folds, among)
                for richer in (1, 2, 3):
                    other = self._crossfit(k, richer, binary, folds, among)
                    difference = (other[0] - mine[0])[known]
                    if difference.mean() > 1.1 * difference.std(ddof=1) / np.sqrt(len(known)):
                        rung, mine = richer, other
                held[binary] += mine[0]
                value, cell = self.best_cell(k, rung, binary, known)
                for fold in among:
                    totals[binary][fold] += mine[1][fold]
                totals[binary][None] += value
                classes.append(self._class_decision(k, cell))
            decisions[binary] = Decision(tuple(classes), self.gate, self.binaries[binary])

        def best(fold: int | None) -> int:
            return max(held, key=lambda b: (round(totals[b][fold], 8), -abs(self.binaries[b] - HALF)))

        answered = np.zeros(self.num)
        for fold in among:
            answered[folds == fold] = held[best(fold)][folds == fold]
        return answered, decisions[best(None)]

    def _crossfit(self, k, rung, binary, folds, among) -> tuple[np.ndarray, dict[int, float]]:
        held, values = np.zeros(self.num), {}
        for fold in among:
            rest = np.flatnonzero(np.isin(folds, [f for f in among if f != fold]))
            values[fold], cell = self.best_cell(k, rung, binary, rest)
            held[folds == fold] = self.dice[k][(folds == fold, *cell)]
        return held, values

    def _class_decision(self, k: int, cell: tuple[int, ...]) -> ClassDecision:
        maximum = (*self.areas[k], None)[cell[4]]
        minimum = (0, *self.areas[k])[cell[3]]
        return ClassDecision(SPACE.pixel_thresholds[cell[1]], self.labels[cell[2]], minimum, maximum)


TRAINING_AREAS = np.random.default_rng(0).integers(6, 40, (30, NUM_CLASSES))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_gate_is_fitted_as_by_brute_force(gate: str, seed: int) -> None:
    images = Images(seed, num=30)
    tuner = Tuner(images.statistics(), (gate,), TRAINING_AREAS, None, (), SPACE)
    expected = BruteForce(images, gate, TRAINING_AREAS)
    empty = np.stack([(images.bitmasks >> k) & 1 for k in range(NUM_CLASSES)]).any(axis=(2, 3)) == 0
    for among in ([0, 1, 2, 3, 4], [0, 1, 3, 4]):
        (search,) = tuner.searches
        fit = search.fit(without=[fold for fold in range(5) if fold not in among])
        answered, decision = expected.fit(tuner.folds.fold_of, among)
        known = np.isin(tuner.folds.fold_of, among)
        assert (fit.classes, fit.binary_threshold) == (decision.classes, decision.binary_threshold)
        assert fit.gains[known] / DICE_UNIT == pytest.approx((answered - empty.sum(axis=0))[known], abs=1e-7)


@pytest.mark.parametrize("gate", GATES)
def test_the_reported_scores_are_scores_on_the_images(gate: str) -> None:
    images = Images(3, num=40)
    found = tune_thresholds(images.statistics(), gates=(gate,), tta=("hflip",))
    assert found.by_gate[gate].gate == gate
    assert found.by_gate[gate].tta == found.decision.tta == ("hflip",)
    assert found.score == pytest.approx(images.mean_dice(found.decision), abs=1e-12)
    tuner = Tuner(images.statistics(), (gate,), None, None, (), SearchSpace())
    of_folds = [
        images.mean_dice(tuner.tune(without=(fold,)).decision, np.flatnonzero(tuner.folds.fold_of == fold))
        for fold in range(5)
    ]
    assert found.cross_fitted_score == pytest.approx(np.mean(of_folds), abs=1e-12)  # 8 images in each
    assert found.cross_fitted_score < found.score


def test_tuning_does_not_depend_on_how_images_were_dealt_to_ranks() -> None:
    statistics = Images(5).statistics()
    odd = np.arange(len(statistics)) % 2 == 1
    joined = EvaluationStatistics.concat([statistics.select(odd), statistics.select(~odd)])
    first, second = tune_thresholds(joined), tune_thresholds(statistics)
    assert first == second
    assert np.array_equal(first.cross_fitted.counts, second.cross_fitted.counts)


def test_a_fold_has_no_say_in_its_own_cross_fitted_answers() -> None:
    statistics = Images(8, num=40).statistics()
    fold_of = Tuner(statistics, tuple(GATES), None, None, (), SearchSpace()).folds.fold_of
    changed = statistics.histograms.copy()
    changed[fold_of == 1] = changed[fold_of == 1, :, :, ::-1]  # turn the probabilities of fold 1 upside down
    other = EvaluationStatistics(statistics.rows, changed, statistics.label_probs)
    first, second = (Tuner(s, tuple(GATES), None, None, (), SearchSpace()) for s in (statistics, other))
    assert first.tune(without=(1,)).by_gate == second.tune(without=(1,)).by_gate
    assert first.tune(without=(0,)).by_gate != second.tune(without=(0,)).by_gate


def answers(found: Tuning) -> list[tuple]:
    """What decides on the masks."""
    return [(c.pixel_threshold, c.min_area, c.max_area) for c in found.decision.classes]


def constant_statistics(mask_prob: int, label_prob: int, *, num: int = 20, area: int = 50) -> EvaluationStatistics:
    """Images of one class: half have `area` true pixels, predicted perfectly with `mask_prob`; the others are clean."""
    histograms = np.zeros((num, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 100
    histograms[::2, 0, 1, mask_prob] = area
    label_probs = np.zeros((num, 2), np.uint8)
    label_probs[::2] = label_prob
    return EvaluationStatistics(np.arange(num), histograms, label_probs)


def test_what_nothing_beats_stays() -> None:
    found = tune_thresholds(constant_statistics(255, 255))
    assert found.decision.gate == "none"
    assert answers(found) == [(HALF, 0, None)]
    assert found.score == found.cross_fitted_score == 1.0


@pytest.mark.parametrize(("num_gaining", "threshold"), [(1, HALF), (4, 80)])
def test_one_image_cannot_decide_but_some_can(num_gaining: int, threshold: int) -> None:
    # Of 20 images 10 have a defect; so many of them are seen from 100 to 120 only, the others always.
    statistics = constant_statistics(255, 255)
    statistics.histograms[: 2 * num_gaining : 2, 0, 1] = 0
    statistics.histograms[: 2 * num_gaining : 2, 0, 1, 100] = 50
    found = tune_thresholds(statistics, gates=("none",))
    assert answers(found) == [(threshold, 0, None)]
    assert found.score == 1 - 0.05 * num_gaining * (threshold == HALF)


def test_copies_of_one_image_are_one_image() -> None:
    statistics = constant_statistics(255, 255, num=40)
    statistics.histograms[:8:2, 0, 1] = 0
    statistics.histograms[:8:2, 0, 1, 100] = 50
    assert answers(tune_thresholds(statistics, gates=("none",))) == [(80, 0, None)]
    groups = np.arange(100, 140)
    groups[:8:2] = 7
    assert answers(tune_thresholds(statistics, gates=("none",), groups=groups)) == [(HALF, 0, None)]


def test_a_single_image_leaves_thresholds_at_one_half() -> None:
    found = tune_thresholds(constant_statistics(100, 255, num=1))
    assert answers(found) == [(HALF, 0, None)]
    assert found.cross_fitted_score == found.score == 0


@pytest.mark.parametrize("seed", [1, 38])
def test_what_is_tuned_but_does_not_hold_when_tuned_without_a_fold_is_not_shipped(seed: int) -> None:
    images = Images(seed)
    found = tune_thresholds(images.statistics(), gates=("none", "class"), space=SPACE)
    tuned = Tuner(images.statistics(), ("none", "class"), None, None, (), SPACE).tune().decision
    assert images.mean_dice(tuned) > images.mean_dice(found.decision) + 0.05
    assert found.decision.gate == "none"
    assert answers(found) == [(HALF, 0, None)] * NUM_CLASSES
    assert found.score == found.cross_fitted_score == pytest.approx(images.mean_dice(default_decision(NUM_CLASSES)))
    assert "and these stay: tuned ones get" in found.explanation[0]


def test_plateaus_win_over_peaks() -> None:
    # Two of three are right at thresholds of 40 to 100 (a false alarm stands), and at 200 alone (an image is lost).
    space = SearchSpace(pixel_thresholds=(40, 60, 80, 100, HALF, 180, 200, 220), label_thresholds=(HALF,))
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
    (search,) = Tuner(statistics, ("none",), None, None, (), space).searches
    thresholds = search.families[0]["thresholds"]
    ((best,), _) = thresholds.best(())
    assert thresholds.decision(best, space.pixel_thresholds).pixel_threshold == 80


def test_areas_are_searched_between_percentiles_of_the_training_areas() -> None:
    candidates = area_candidates(np.arange(1, 1002), SearchSpace())
    assert (candidates[0], candidates[-1]) == (21, 981)
    assert len(candidates) == SearchSpace().area_steps
    ratios = np.divide(candidates[1:], candidates[:-1])
    assert ratios.max() / ratios.min() < 1.05
    assert area_candidates(np.array([5, 6, 7, 8]), SearchSpace()) == ()  # no handful


def test_given_training_areas_bound_the_limits() -> None:
    low, high = 20, 25
    areas = np.array([[low, high], [22, 0], [high, low], [21, 22], [23, 23], [24, 24], [23, 23]])
    tuner = Tuner(Images(6).statistics(), ("none",), areas, None, (), SearchSpace())
    for families in tuner.searches[0].families:
        minima, maxima = families["maximum area"].settings[:, 2:].T
        assert set(minima.tolist()) <= {0, *range(low, high + 1)}
        assert set(maxima.tolist()) <= {NO_LIMIT, *range(low, high + 1)}


def test_windows_that_hold_next_to_nothing_are_not_tried() -> None:
    # 4 areas of 10, 30 of 100, 4 of 1,000: the limits between them hold 0, 4, 30, ... of 38.
    areas = np.repeat([10, 100, 1000], [4, 30, 4])
    grid = ClassGrid((HALF,), (HALF,), (0, 10, 100, 1000), (10, 100, 1000, NO_LIMIT), areas)
    assert grid.allowed_windows().tolist() == [
        [False, True, True, True],  # up to 10: 4 areas are no handful
        [False, True, True, True],  # 10 to 10 is no window at all
        [False, False, True, True],
        [False, False, False, False],  # from 1,000: 4 areas again
    ]
    many = np.repeat([10, 100, 1000], [9, 90, 9])
    assert not ClassGrid((HALF,), (HALF,), (0,), (10, NO_LIMIT), many).allowed_windows()[0, 0]  # less than a tenth
    few = ClassGrid((HALF,), (HALF,), (0, 10), (10, NO_LIMIT), areas[:3])
    assert few.allowed_windows().tolist() == [[False, True], [False, False]]


def test_a_window_of_one_area_is_never_shipped() -> None:
    # Defects are never seen, and there are false alarms of every area but about 809: that is the window that pays.
    num = 60
    histograms = np.zeros((num, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 10_000
    histograms[::3, 0, 1, 0] = 500
    alarms = np.concatenate([np.geomspace(100, 700, 20), np.geomspace(900, 9000, 20)]).astype(int)
    histograms[np.arange(num) % 3 > 0, 0, 0, 255] = alarms
    statistics = EvaluationStatistics(np.arange(num), histograms, np.zeros((num, 2), np.uint8))
    areas = np.rint(np.geomspace(300, 3000, 200)).astype(int)
    (only,) = tune_thresholds(statistics, gates=("none",), training_areas=areas[:, None]).decision.classes
    held = np.count_nonzero((areas >= only.min_area) & (areas <= (only.max_area or areas.max())))
    assert held >= 20
    assert only != ClassDecision(HALF, only.label_threshold)  # what loses less is taken all the same


def test_a_class_that_no_image_has_is_left_alone() -> None:
    images = Images(7)
    images.bitmasks &= 1
    found = tune_thresholds(images.statistics(), gates=("class",))
    assert found.by_gate["class"].classes[1] == ClassDecision()
    assert found.explanation[3] == "class 2: no image here has it, so it keeps a threshold of one half and no limits"


@pytest.mark.parametrize("gate", GATES)
def test_label_thresholds_serve_the_gate_that_uses_them_and_the_best_f1_where_none_does(gate: str) -> None:
    # Ten positives called at 90 whose masks are missed, ten false alarms called at 150, ten good ones at 220.
    histograms = np.zeros((30, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 1000
    histograms[0:10, 0, 1, 0] = 60
    histograms[10:20, 0, 0, 255] = 60
    histograms[20:30, 0, 1, 255] = 60
    label_probs = np.repeat(np.array([90, 150, 220], np.uint8), 10)[:, None].repeat(2, axis=1)
    found = tune_thresholds(EvaluationStatistics(np.arange(30), histograms, label_probs), gates=("none", gate))
    decision = found.by_gate[gate]
    # The best F1 takes all thirty (0.8 against 0.67), the best Dice leaves the false alarms out.
    assert (decision.classes[0].label_threshold > 150) == (gate in ASK_CLASS)
    assert (decision.binary_threshold > 150) == (gate == "binary")  # behind the class's own, a second gate adds nothing
    assert found.decision.gate == (gate if gate in ("class", "binary", "binary+class") else "none")


def test_best_label_threshold_of_worked_probabilities() -> None:
    probs = np.array([10, 60, 110, 160, 210], np.uint8)
    true = np.array([False, False, True, True, True])
    # F1 at 50, 100, 150, 200: 6/7, 1, 4/5, 1/2; averaged with neighbours: 0.929, 0.886, 0.767, 0.65.
    assert best_label_threshold(probs, true, (50, 100, 150, 200)) == 50
    assert best_label_threshold(probs, np.zeros(5, bool), (50, 100)) == HALF
    assert best_label_threshold(probs[3:], true[3:], (50, 100, 150)) == 150  # all are perfect; this is nearest one half


def test_the_explanation_says_what_was_gained() -> None:
    found = tune_thresholds(constant_statistics(100, 255), gates=("none",), class_names=["scratch"])
    gain, gate, scratch = found.explanation
    # Ten of twenty images gain 1: the mean is 0.5, its standard error sqrt(0.25 / 19).
    assert gain == (
        "tuned on 20 images: mean Dice 0.5000 with every threshold at one half, now 1.0000, cross-fitted 1.0000 "
        "(a gain of +0.5000 ± 0.1147); answering nothing gets 0.5000"
    )
    assert gate == "gate none: the segmentation alone decides"
    assert scratch == (
        "scratch: pixels from 0.31; Dice 0.5000 -> 1.0000, cross-fitted 1.0000, the floor is 0.5000 (10 images have "
        "it): few, so this rests on little; cross-fitted: thresholds +0.5000 ± 0.1147 taken, minimum area +0.0000 ± "
        "0.0000 left out, maximum area +0.0000 ± 0.0000 left out"
    )


def test_the_explanation_says_that_nothing_was_gained() -> None:
    gain, _, scratch = tune_thresholds(
        constant_statistics(255, 255), gates=("none",), class_names=["scratch"]
    ).explanation
    assert gain == (
        "tuned on 20 images: mean Dice 1.0000 with every threshold at one half, and these stay: tuned ones get "
        "1.0000 cross-fitted (+0.0000 ± 0.0000), which may be noise; answering nothing gets 0.5000"
    )
    assert scratch == (
        "scratch: pixels from 0.50; Dice 1.0000, the floor is 0.5000 (10 images have it): few, so this rests on little"
    )


def test_tuning_needs_images() -> None:
    with pytest.raises(InputError, match="no images"):
        tune_thresholds(EvaluationStatistics.from_images([], 2))


def test_tuning_never_loses_to_a_default_within_its_grid() -> None:
    space = SearchSpace(pixel_thresholds=(HALF,), label_thresholds=(HALF,))
    for seed in range(5):
        statistics = Images(seed, num=30).statistics()
        before = float(score(decide(statistics, default_decision(NUM_CLASSES))).mean_dice)
        found = tune_thresholds(statistics, space=space, gates=("none",), training_areas=np.zeros((1, NUM_CLASSES)))
        assert found.score == pytest.approx(before)


@pytest.mark.parametrize("name", list(NETWORKS)[:4])
def test_a_decision_tuned_on_few_positives_is_never_worse_than_one_half(name: str) -> None:
    """The whole of it, at full size: `python -m bench.quality thresholds`."""
    space = SearchSpace(pixel_thresholds=tuple(range(32, 225, 32)), label_thresholds=(80, HALF, 176), area_steps=3)
    those = [
        resample(NETWORKS[name], space, seed, num_images=120, num_test=600, num_classes=2, gates=("none", "class"))
        for seed in range(20)
    ]
    assert not any(r.is_worse for r in those)
    assert np.mean([r.gain for r in those]) > (-1e-9 if "nothing to gain" in name else 0.005)
    claimed, true = (np.mean([getattr(r, what) for r in those]) for what in ("claimed", "gain"))
    assert claimed < true + 0.01  # an honest claim; scores on the tuned images themselves are higher
    assert claimed <= np.mean([r.in_sample for r in those]) + 1e-9
