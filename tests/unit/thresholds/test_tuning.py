"""Threshold tuning against a brute force that applies every setting of a small grid to the images themselves."""

import itertools
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from steel.decision import HALF, ClassDecision, Decision
from steel.distributed.runtime import Runtime
from steel.errors import InputError
from steel.gates import GATES, NO_LIMIT
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.search import DICE_UNIT
from steel.thresholds.search_space import SearchSpace
from steel.thresholds.tuning import Tuner, Tuning, best_label_threshold, tune_thresholds
from tests.tuning_images import NUM_CLASSES, SPACE, Images

ASK_ANY, ASK_CLASS = ("binary", "binary+class"), ("class", "binary+class")


class BruteForce:
    """Everything that threshold tuning does, setting by setting and image by image, from the pixels."""

    def __init__(self, images: Images, gate: str, training_areas: np.ndarray) -> None:
        self.num = len(images.bitmasks)
        self.binaries = SPACE.label_thresholds if gate in ASK_ANY else (HALF,)
        self.labels = SPACE.label_thresholds if gate in ASK_CLASS else (HALF,)
        self.gate = gate
        self.areas = [self._area_axis(training_areas[:, k]) for k in range(NUM_CLASSES)]
        self.allowed = [self._windows(training_areas[:, k], self.areas[k]) for k in range(NUM_CLASSES)]
        self.dice, self.found, self.found_at_half = zip(
            *(self._tables(images, k) for k in range(NUM_CLASSES)), strict=True
        )

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

    def _tables(self, images: Images, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dice of class k, counted in the pixels, and whether it is found, both (N, binary, pixel, label, minimum,
        maximum); and (N,) whether one half finds it."""
        true = (images.bitmasks >> k) & 1 == 1
        masks = images.mask_probs[:, k, None] >= np.reshape(SPACE.pixel_thresholds, (-1, 1, 1))
        areas, common = masks.sum(axis=(2, 3)), (masks & true[:, None]).sum(axis=(2, 3))
        sizes = areas + true.sum(axis=(1, 2))[:, None]
        answered, dropped = np.where(sizes == 0, 1, 2 * common / np.maximum(sizes, 1)), ~true.any(axis=(1, 2))
        any_prob, class_prob = (images.label_probs[:, i, None].astype(int) for i in (0, 1 + k))
        table = np.zeros((self.num, len(self.binaries), *areas.shape[1:], len(self.labels), *self.allowed[k].shape))
        found = np.zeros(table.shape, bool)
        for cell in itertools.product(*map(range, table.shape[3:]), range(len(self.binaries))):
            label, low, high, binary = self.labels[cell[0]], (0, *self.areas[k])[cell[1]], cell[2], cell[3]
            keep = areas * class_prob >= low * (255 - class_prob) if self.gate == "soft" else areas >= low
            keep = keep & (areas <= (*self.areas[k], NO_LIMIT)[high])
            keep &= (any_prob >= self.binaries[binary]) | (self.gate not in ASK_ANY)
            keep &= (class_prob >= label) | (self.gate not in ASK_CLASS)
            table[:, binary, :, cell[0], cell[1], high] = np.where(keep, answered, dropped[:, None])
            found[:, binary, :, cell[0], cell[1], high] = keep & (common > 0)
        return table, found, common[:, SPACE.pixel_thresholds.index(HALF)] > 0

    def best_cell(self, k: int, rung: int, binary: int, images: np.ndarray) -> tuple[float, tuple[int, ...], bool]:
        """The best mean over adjacent cells of a rung, on some images: value, cell of the whole grid, and whether it
        finds a tenth of what one half finds, and one image. One that does comes before all that do not."""
        half = SPACE.pixel_thresholds.index(HALF), self.labels.index(HALF)
        shape = self.dice[k].shape[1:]
        cut = [
            range(shape[0]),
            range(half[0], half[0] + 1) if rung == 0 else range(shape[1]),
            range(half[1], half[1] + 1) if rung == 0 else range(shape[2]),
            range(1) if rung < 2 else range(shape[3]),
            range(shape[4] - 1, shape[4]) if rung < 3 else range(shape[4]),
        ]
        mean, found = self.dice[k][images].mean(axis=0), self.found[k][images].sum(axis=0)
        at_half = self.found_at_half[k][images].sum()
        values = []
        for cell in itertools.product(*cut[1:]):
            if self.allowed[k][cell[2:]]:
                near = [
                    [i for i in (c - 1, c, c + 1) if i in axis] for c, axis in zip((binary, *cell), cut, strict=True)
                ]
                nearest = abs(SPACE.pixel_thresholds[cell[0]] - HALF), abs(self.labels[cell[1]] - HALF)
                preferred = (-nearest[0], -nearest[1], -cell[2], cell[3])
                finds = found[(binary, *cell)] >= min(at_half, max(1, at_half / 10))
                values.append((finds, round(float(mean[np.ix_(*near)].mean()), 9), preferred, cell))
        finds, value, _, cell = max(values)
        return value, (binary, *cell), finds

    def fit(self, folds: np.ndarray, among: list[int]) -> tuple[np.ndarray, Decision]:
        """(N,) cross-fitted Dice summed over classes, and the decision, on the images of some folds."""
        known = np.flatnonzero(np.isin(folds, among))
        held, totals, finds, decisions = {}, {}, {}, {}
        for binary in range(len(self.binaries)):
            held[binary], totals[binary], classes = np.zeros(self.num), {None: 0.0} | dict.fromkeys(among, 0.0), []
            finds[binary] = dict.fromkeys((None, *among), 0)
            for k in range(NUM_CLASSES):
                rung, mine = 0, self._crossfit(k, 0, binary, folds, among)
                for richer in (1, 2, 3):
                    other = self._crossfit(k, richer, binary, folds, among)
                    difference = (other[0] - mine[0])[known]
                    is_shown = difference.mean() > 1.1 * difference.std(ddof=1) / np.sqrt(len(known))
                    if is_shown or (other[2][None] and not mine[2][None]):
                        rung, mine = richer, other
                held[binary] += mine[0]
                for fold in (None, *among):
                    totals[binary][fold] += mine[1][fold]
                    finds[binary][fold] += mine[2][fold]
                classes.append(self._class_decision(k, self.best_cell(k, rung, binary, known)[1]))
            decisions[binary] = Decision(tuple(classes), self.gate, self.binaries[binary])

        def best(fold: int | None) -> int:
            return max(held, key=lambda b: (finds[b][fold], round(totals[b][fold], 8), -abs(self.binaries[b] - HALF)))

        answered = np.zeros(self.num)
        for fold in among:
            answered[folds == fold] = held[best(fold)][folds == fold]
        return answered, decisions[best(None)]

    def _crossfit(self, k, rung, binary, folds, among) -> tuple[np.ndarray, dict[int, float], dict[int, bool]]:
        """(N,) Dice of each image; by fold, None for all together, the value of what is best without it, and whether
        that finds the class."""
        held, values, finds = np.zeros(self.num), {}, {}
        for fold in (None, *among):
            rest = np.flatnonzero(np.isin(folds, [f for f in among if f != fold]))
            values[fold], cell, finds[fold] = self.best_cell(k, rung, binary, rest)
            if fold is not None:
                held[folds == fold] = self.dice[k][(folds == fold, *cell)]
        return held, values, finds

    def _class_decision(self, k: int, cell: tuple[int, ...]) -> ClassDecision:
        maximum = (*self.areas[k], None)[cell[4]]
        minimum = (0, *self.areas[k])[cell[3]]
        return ClassDecision(SPACE.pixel_thresholds[cell[1]], self.labels[cell[2]], minimum, maximum)


TRAINING_AREAS = np.random.default_rng(0).integers(6, 40, (30, NUM_CLASSES))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_gate_is_fitted_as_by_brute_force(gate: str, seed: int) -> None:
    images = Images(seed, num=30)
    tuner = Tuner(images.statistics(), (gate,), TRAINING_AREAS, (), SPACE)
    expected = BruteForce(images, gate, TRAINING_AREAS)
    empty = np.stack([(images.bitmasks >> k) & 1 for k in range(NUM_CLASSES)]).any(axis=(2, 3)) == 0
    for among in ([0, 1, 2, 3, 4], [0, 1, 3, 4]):
        fit = tuner.search(gate).fit(without=[fold for fold in range(5) if fold not in among])
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
    tuner = Tuner(images.statistics(), (gate,), None, (), SearchSpace())
    of_folds = [
        images.mean_dice(tuner.tune(without=fold).decision, np.flatnonzero(tuner.folds.fold_of == fold))
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


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_that_share_the_gates_find_what_one_finds(world: int) -> None:
    statistics = Images(5).statistics()
    alone = tune_thresholds(statistics, space=SPACE)
    dealt: list[list[str]] = [[] for _ in range(world)]
    lock_step = threading.Barrier(world)
    parts: list[Any] = [None] * world

    def tuned(rank: int) -> Tuning:
        def all_gather(mine: Any) -> list[Any]:
            parts[rank] = pickle.loads(pickle.dumps(mine))
            lock_step.wait(60)
            return parts

        runtime = SimpleNamespace(rank=rank, world=world, all_gather=all_gather)

        def share(tasks: Sequence[Any]) -> list[Any]:
            dealt[rank] = [task.args[0] for task in tasks[rank::world]]
            return Runtime.share_out(cast(Runtime, runtime), tasks)

        return tune_thresholds(statistics, space=SPACE, share=share)

    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(tuned, range(world)))
    assert sorted(itertools.chain(*dealt)) == sorted(GATES)
    for one in found:
        assert one == alone
        assert np.array_equal(one.cross_fitted.counts, alone.cross_fitted.counts)


def test_a_fold_has_no_say_in_its_own_cross_fitted_answers() -> None:
    statistics = Images(8, num=40).statistics()
    fold_of = Tuner(statistics, tuple(GATES), None, (), SearchSpace()).folds.fold_of
    changed = statistics.histograms.copy()
    changed[fold_of == 1] = changed[fold_of == 1, :, :, ::-1]  # turn the probabilities of fold 1 upside down
    other = EvaluationStatistics(statistics.rows, changed, statistics.label_probs)
    first, second = (Tuner(s, tuple(GATES), None, (), SearchSpace()) for s in (statistics, other))
    assert first.tune(without=1).by_gate == second.tune(without=1).by_gate
    assert first.tune(without=0).by_gate != second.tune(without=0).by_gate


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


def test_tuning_needs_images() -> None:
    with pytest.raises(InputError, match="no images"):
        tune_thresholds(EvaluationStatistics.from_images([], 2))
