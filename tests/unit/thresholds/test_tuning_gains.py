"""What tuning ships: only what gains more than noise, on images that it was not tuned on."""

from dataclasses import replace

import numpy as np
import pytest

from bench.quality.thresholds import NETWORKS, judge, simulated
from steel.decision import HALF, ClassDecision, Decision, default_decision
from steel.gates import GATES
from steel.metrics.counts import INTERSECTION, PREDICTED
from steel.metrics.scores import decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.crossfit import half_width
from steel.thresholds.search_space import SearchSpace
from steel.thresholds.tuning import Tuner, Tuning, tune_thresholds
from tests.tuning_images import NUM_CLASSES, SPACE, Images, constant_statistics, rarely_seen


def answers(found: Tuning) -> list[tuple]:
    """What decides on the masks."""
    return [answers_of(chosen) for chosen in found.decision.classes]


def answers_of(chosen: ClassDecision) -> tuple:
    """The same of one class."""
    return (chosen.pixel_threshold, chosen.min_area, chosen.max_area)


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
    assert answers(tune_thresholds(replace(statistics, groups=groups), gates=("none",))) == [(HALF, 0, None)]


@pytest.mark.parametrize(("num_gaining", "threshold"), [(3, HALF), (4, 80)])
def test_few_groups_of_many_images_are_few_terms(num_gaining: int, threshold: int) -> None:
    """Where k groups of 6 gain alike and the others nothing, the gain is the root of 5k / (6 - k) standard errors: 2.24
    of 3 groups, 3.16 of 4. Student's t asks 2.57 of 6 terms; of the 60 images it would ask 2.00."""
    statistics, groups = constant_statistics(255, 255, num=60), np.arange(60) // 10
    statistics.histograms[: 10 * num_gaining : 2, 0, 1] = 0
    statistics.histograms[: 10 * num_gaining : 2, 0, 1, 100] = 50
    found = tune_thresholds(replace(statistics, groups=groups), gates=("none",))
    assert answers(found) == [(threshold, 0, None)]
    gain, noise = {3: (0.25, 0.1118), 4: (0.3333, 0.1054)}[num_gaining]
    assert f"{gain:+.4f} ± {noise:.4f}" in found.explanation[0]
    assert half_width(0.95, 60) < 2.01 < gain / noise
    assert (gain / noise > half_width(0.95, 6)) == (threshold != HALF)


@pytest.mark.parametrize(
    ("num_groups", "threshold", "told"), [(6, 80, "now 1.0000"), (5, HALF, "which so few cannot show to be better")]
)
def test_fewer_than_six_groups_show_nothing(num_groups: int, threshold: int, told: str) -> None:
    """Every other image of each group gains, so that all groups gain alike: without any noise."""
    statistics = constant_statistics(255, 255, num=60)
    statistics.histograms[::2, 0, 1] = 0
    statistics.histograms[::2, 0, 1, 100] = 50
    groups = np.repeat(np.arange(num_groups), 60 // num_groups)
    found = tune_thresholds(replace(statistics, groups=groups), gates=("none",))
    assert answers(found) == [(threshold, 0, None)]
    assert "+0.5000 ± 0.0000)" in found.explanation[0] and told in found.explanation[0]


def test_a_single_image_leaves_thresholds_at_one_half() -> None:
    found = tune_thresholds(constant_statistics(100, 255, num=1))
    assert answers(found) == [(HALF, 0, None)]
    assert found.cross_fitted_score == found.score == 0


@pytest.mark.parametrize("seed", [1, 38])
def test_what_is_tuned_but_does_not_hold_when_tuned_without_a_fold_is_not_shipped(seed: int) -> None:
    images = Images(seed)
    found = tune_thresholds(images.statistics(), gates=("none", "class"), space=SPACE)
    tuned = Tuner(images.statistics(), ("none", "class"), None, (), SPACE).tune().decision
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
    thresholds = Tuner(statistics, ("none",), None, (), space).search("none").families[0]["thresholds"]
    (best,) = thresholds.best(()).settings
    assert thresholds.decision(best, space.pixel_thresholds).pixel_threshold == 80


def test_a_class_that_no_image_has_is_left_alone() -> None:
    images = Images(7)
    images.bitmasks &= 1
    found = tune_thresholds(images.statistics(), gates=("class",))
    assert found.by_gate["class"].classes[1] == ClassDecision()
    assert found.explanation[3] == "class 2: no image here has it, so it keeps a threshold of one half and no limits"


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
        judge(
            simulated(NETWORKS[name], seed, num_images=120, num_test=600, num_classes=2), space, gates=("none", "class")
        )
        for seed in range(20)
    ]
    assert not any(r.is_worse for r in those)
    assert np.mean([r.gain for r in those]) > (-1e-9 if "nothing to gain" in name else 0.005)
    claimed, true = (np.mean([getattr(r, what) for r in those]) for what in ("claimed", "gain"))
    assert claimed < true + 0.01  # an honest claim; scores on the tuned images themselves are higher
    assert claimed <= np.mean([r.in_sample for r in those]) + 1e-9


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("label_prob", [0, 60])
def test_a_rare_class_is_answered_still(gate: str, label_prob: int) -> None:
    """Dropping all eight alarms gains 8, and each defect found 2 * 60 / 460 = 0.26: above 180 one of both is found, and
    from 208 on none, which no other gate may bring about either."""
    statistics = rarely_seen(98, 8, label_prob=label_prob)
    found = tune_thresholds(statistics, gates=("none", gate))
    assert found.decision.classes[0].pixel_threshold in (192, HALF)
    counts = decide(statistics, found.decision).counts[:, 0]
    assert (counts[-2:, INTERSECTION] > 0).any()
    assert not counts[:-2, PREDICTED].any()
    assert found.score == pytest.approx((98 + (counts[-2:, INTERSECTION] > 0).sum() * 120 / 460) / 100)


def with_a_class_beside(rare: EvaluationStatistics) -> EvaluationStatistics:
    """A class before it of which one image has 60 pixels, seen at 250; the head calls that image clean."""
    histograms, label_probs = rare.histograms.repeat(2, axis=1), rare.label_probs[:, [0, 0, 1]]
    histograms[:, 0] = 0
    histograms[:, 0, 0, 0], histograms[0, 0, 1, 250], label_probs[0] = 1000, 60, 0
    return EvaluationStatistics(rare.rows, histograms, label_probs)


@pytest.mark.parametrize("gates", [("binary",), ("class",), ("binary", "class")])
def test_a_class_that_a_gate_cannot_find_is_no_excuse_for_another(gates: tuple[str, ...]) -> None:
    """No threshold of these gates finds the first class. Low ones find the other; higher ones, which stop all of it and
    the alarms, score more."""
    statistics = with_a_class_beside(rarely_seen(98, 8, label_prob=60))
    statistics.label_probs[1:8] = 70
    found = tune_thresholds(statistics, gates=gates)
    assert (decide(statistics, found.decision).counts[..., INTERSECTION] > 0).sum(axis=0).tolist() == [0, 1]
    words = "it hardly finds class 1, which thresholds of one half find; no gate that was tried finds more classes"
    assert words in found.explanation[1]


def test_a_gate_that_finds_more_classes_comes_before_one_that_scores_more() -> None:
    """Neither finds the first class; the head calls all images clean, but names the other one where it is, and in three
    images whose alarms are as sure as can be."""
    statistics = with_a_class_beside(rarely_seen(98, 8))
    statistics.histograms[1:4, 1, 0, 250] = 40
    statistics.label_probs[1:4, 2], statistics.label_probs[-2:, 2] = 200, 200
    found = tune_thresholds(statistics, gates=("binary", "class"))
    scores = {gate: score(decide(statistics, decision)).mean_dice for gate, decision in found.by_gate.items()}
    assert (found.decision.gate, scores["class"] < scores["binary"]) == ("class", True)


@pytest.mark.parametrize("gate", GATES)
def test_without_its_only_image_a_class_stays_at_one_half(gate: str) -> None:
    """As it does where no image at all has it: on clean images alone its alarms would be worth any threshold."""
    statistics = rarely_seen(98, 30, label_prob=200)
    statistics.histograms[-2] = statistics.histograms[-3]
    statistics.label_probs[:30] = 200
    tuner = Tuner(statistics, (gate,), None, (), SearchSpace())
    (alone,) = tuner.folds.fold_of[-1:].tolist()
    for fold in range(tuner.folds.num):
        decision = tuner.tune(without=fold).by_gate[gate]
        assert (answers_of(decision.classes[0]) == (HALF, 0, None)) == (fold == alone)
        if fold == alone:
            assert decision.binary_threshold == HALF


def test_clean_images_alone_choose_no_gate() -> None:
    """20 of the 40 have an alarm, at a label probability of 200: a gate that opens above it would silence them."""
    statistics = constant_statistics(255, 200, num=40)
    statistics.histograms[:, 0, 0, 255] += statistics.histograms[:, 0, 1, 255]
    statistics.histograms[:, 0, 1] = 0
    assert score(decide(statistics, default_decision(1))).mean_dice == 0.5
    found = tune_thresholds(statistics)
    assert found.decision == default_decision(1)
    assert "and these stay: no image here has a defect to tune them on" in found.explanation[0]


def test_a_class_that_no_image_has_has_no_say_in_the_gate() -> None:
    """Class 1 is found well without a gate; one would silence half of the alarms of class 2, which no image has."""
    statistics = constant_statistics(255, 200, num=40)
    alarms = np.zeros((40, 1, 2, 256), np.uint32)
    alarms[:, 0, 0, 255] = statistics.histograms[0].sum()
    both = EvaluationStatistics(
        statistics.rows,
        np.concatenate([statistics.histograms, alarms], axis=1),
        np.where(np.arange(40)[:, None] % 2 == 0, 200, 30).repeat(3, axis=1).astype(np.uint8),
    )
    found = tune_thresholds(both)
    assert found.decision.gate == "none"
    assert answers(found) == [(HALF, 0, None)] * 2


def test_of_a_class_seen_often_a_tenth_stays() -> None:
    """40 defects are seen at 150, as are 160 alarms; three of them at 200, and one at 230. From 224 on ten more alarms,
    at 215, are gone, and one defect is left."""
    histograms = np.zeros((400, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 1000
    histograms[:40, 0, 1, 0] = 1000
    histograms[:36, 0, 1, 150], histograms[36:39, 0, 1, 200], histograms[39, 0, 1, 230] = 1, 1, 1
    histograms[40:200, 0, 0, 150] = 1
    histograms[200:210, 0, 0, 215] = 1
    statistics = EvaluationStatistics(np.arange(400), histograms, np.zeros((400, 2), np.uint8))
    family = Tuner(statistics, ("none",), None, (), SearchSpace()).search("none").families[0]["thresholds"]
    found, best = family.found.sum(axis=0)[0], family.best(())
    assert found[np.argmax(family.total[0])] < 4, "mean Dice alone would be best with fewer"
    assert (found[best.settings[0]], bool(best.finds[0])) == (4, True)
