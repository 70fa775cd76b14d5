"""Scores worked by hand, statistics in parts, and bootstrap intervals."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from steel.decision import ClassDecision, Decision, default_decision
from steel.errors import InputError
from steel.metrics.bootstrap import bootstrap, bootstrap_difference, interval, resampled_sums
from steel.metrics.scores import Outcome, decide, label_scores, missed, ratios, score, score_sums
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.metrics.verdict import reach_verdict

WORKED = Outcome(
    rows=np.arange(3),
    # (intersection, predicted, true) of two classes in three images
    counts=np.array([[[4, 6, 10], [0, 0, 0]], [[0, 0, 0], [0, 2, 0]], [[0, 0, 5], [0, 0, 0]]]),
    labels=np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]], bool),
    background=np.array([[80, 90, 85], [98, 98, 100], [95, 100, 95]]),
)


def test_segmentation_scores_of_a_worked_outcome() -> None:
    scores = score(WORKED)
    dice = np.array([[0.5, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert scores.mean_dice == pytest.approx(dice.mean())
    assert scores.mean_dice_all_empty == pytest.approx(4 / 6)
    assert scores.mean_dice_positive == pytest.approx(0.25)
    assert scores.dice_per_class == pytest.approx(dice.mean(axis=0))
    assert scores.dice_positive_per_class[0] == pytest.approx(0.25)
    assert np.isnan(scores.dice_positive_per_class[1])
    assert scores.iou_per_class == pytest.approx([4 / 17, 0.0])  # unions 12 + 0 + 5, and 2
    assert scores.miou == pytest.approx(2 / 17)
    background = (80 + 98 + 95) / (95 + 100 + 100)
    assert scores.miou_with_background == pytest.approx((4 / 17 + 0 + background) / 3)


def test_what_is_missed_of_a_worked_outcome() -> None:
    """Something is answered of the one clean image, positive Dice of the first class is 0.25, no image has the second.
    Where no image is clean, that is unknown."""
    assert missed(WORKED) == [1.0, 0.75, None]
    silent = Outcome(WORKED.rows, WORKED.counts * [1, 0, 1], WORKED.labels)  # nothing is answered
    assert missed(silent)[0] == 0.0
    defective = Outcome(WORKED.rows[:1], WORKED.counts[:1], WORKED.labels[:1])
    assert missed(defective) == [None, 0.5, None]


def test_means_are_rounded_once() -> None:
    """What any other program finds that adds up the same Dice values exactly: here with fractions."""
    outcome = random_outcome(1000)
    both = outcome.counts[..., 1] + outcome.counts[..., 2]
    dice = [
        [1.0 if b == 0 else 2 * i / b for i, b in zip(*row, strict=True)]
        for row in zip(outcome.counts[..., 0].tolist(), both.tolist(), strict=True)
    ]

    def mean(values: list[float]) -> float:
        return float(sum(map(Fraction, values))) / len(values)

    scores = score(outcome)
    assert scores.mean_dice == mean([d for row in dice for d in row])
    assert scores.dice_per_class.tolist() == [mean([row[k] for row in dice]) for k in range(2)]
    there = outcome.counts[..., 2] > 0
    positive = [[row[k] for row, t in zip(dice, there, strict=True) if t[k]] for k in range(2)]
    assert scores.dice_positive_per_class.tolist() == [mean(values) for values in positive]
    assert scores.mean_dice_positive == mean(positive[0] + positive[1])
    backwards = Outcome(outcome.rows, outcome.counts[::-1], outcome.labels)
    assert score(backwards).mean_dice == scores.mean_dice


def test_a_class_that_is_neither_true_nor_predicted_is_left_out_of_the_mean_iou() -> None:
    scores = score(Outcome(np.arange(1), np.array([[[5, 5, 10], [0, 0, 0]]]), np.zeros((1, 3), bool)))
    assert np.isnan(scores.iou_per_class[1])
    assert scores.miou == pytest.approx(0.5)
    assert np.isnan(scores.miou_with_background)  # no background counts, no score


def test_answering_nothing_gets_the_floor() -> None:
    counts = WORKED.counts.copy()
    counts[..., :2] = 0
    scores = score(Outcome(WORKED.rows, counts, WORKED.labels))
    assert scores.mean_dice == scores.mean_dice_all_empty
    assert scores.mean_dice_positive == 0


def test_true_labels_follow_from_the_true_pixels() -> None:
    assert WORKED.true_labels.tolist() == [[True, True, False], [False, False, False], [True, True, False]]


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([1, 1, 0, 0, 0], [1, 0, 1, 1, 0], (0.4, 0.5, 1 / 3, 0.4)),
        ([0, 0], [1, 0], (0.5, None, 0.0, 0.0)),
        ([1, 0], [0, 0], (0.5, 0.0, None, 0.0)),
        ([0, 0], [0, 0], (1.0, None, None, None)),
    ],
)
def test_label_scores_of_worked_labels(predicted: list, true: list, expected: tuple) -> None:
    scores = label_scores(np.array(predicted, bool), np.array(true, bool))
    for value, wanted in zip((scores.accuracy, scores.precision, scores.recall, scores.f1), expected, strict=True):
        assert np.isnan(value) if wanted is None else value == pytest.approx(wanted)


def some_statistics(num: int = 11, decision: Decision | None = None) -> EvaluationStatistics:
    rng = np.random.default_rng(0)
    images = (
        image_statistics(
            row,
            rng.integers(0, 256, (2, 5, 6), dtype=np.uint8),
            rng.integers(0, 256, 3, dtype=np.uint8),
            rng.integers(0, 4, (5, 6), dtype=np.uint8),
            decision=decision,
        )
        for row in rng.permutation(100)[:num].tolist()
    )
    return EvaluationStatistics.from_images(images, 2, decision)


@pytest.mark.parametrize("world", [1, 2, 3, 20])
def test_any_number_of_parts_joins_to_the_same_statistics(world: int) -> None:
    whole = some_statistics(decision=default_decision(2))
    parts = [whole.select(np.arange(len(whole)) % world == rank) for rank in range(world)]
    joined = EvaluationStatistics.concat(parts[::-1])
    assert np.array_equal(joined.rows, whole.rows)
    assert np.all(np.diff(joined.rows) > 0)
    assert np.array_equal(joined.histograms, whole.histograms)
    assert np.array_equal(joined.label_probs, whole.label_probs)
    assert joined.background is not None
    assert np.array_equal(joined.background, whole.background)
    first, second = (score(decide(s, default_decision(2))) for s in (whole, joined))
    assert first.mean_dice == second.mean_dice
    assert first.miou_with_background == second.miou_with_background


def test_a_rank_without_images_has_empty_statistics() -> None:
    whole = some_statistics()
    joined = EvaluationStatistics.concat([EvaluationStatistics.from_images([], 2), whole])
    assert len(joined) == len(whole)


def test_images_are_counted_once() -> None:
    whole = some_statistics()
    with pytest.raises(AssertionError, match="different"):
        EvaluationStatistics.concat([whole, whole.select(np.arange(len(whole)) == 3)])


def test_background_counts_hold_for_their_own_decision_only() -> None:
    decision = default_decision(2)
    statistics = some_statistics(decision=decision)
    other = Decision((ClassDecision(40),) * 2)
    assert not np.isnan(score(decide(statistics, decision)).miou_with_background)
    assert np.isnan(score(decide(statistics, other)).miou_with_background)
    mixed = EvaluationStatistics.concat(
        [statistics.select(statistics.rows < 50), some_statistics().select(statistics.rows >= 50)]
    )
    assert mixed.background is None


def test_background_and_classes_cover_each_pixel_of_disjoint_masks() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, (9, 9))
    probs = np.stack([np.where(truth == k, 200, 10) for k in (1, 2)]).astype(np.uint8)
    bitmask = np.array([0, 1, 2], np.uint8)[truth]
    decision = default_decision(2)
    image = image_statistics(0, probs, np.zeros(3, np.uint8), bitmask, decision=decision)
    scores = score(decide(EvaluationStatistics.from_images([image], 2, decision), decision))
    assert scores.miou == scores.miou_with_background == scores.mean_dice == 1


def test_statistics_survive_the_disk(tmp_path: Path) -> None:
    whole = some_statistics()
    whole.save(tmp_path / "fold0.npz")
    loaded = EvaluationStatistics.load(tmp_path / "fold0.npz")
    assert np.array_equal(loaded.rows, whole.rows)
    assert np.array_equal(loaded.histograms, whole.histograms)
    assert np.array_equal(loaded.label_probs, whole.label_probs)
    assert [path.name for path in tmp_path.iterdir()] == ["fold0.npz"]


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_damaged_statistics_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "fold0.npz"
    if damage != "missing":
        some_statistics().save(path)
        path.write_bytes(path.read_bytes()[:200] if damage == "cut" else b"rows,histograms\n")
    with pytest.raises(InputError, match=r"fold0\.npz: not readable evaluation statistics") as caught:
        EvaluationStatistics.load(path)
    assert "\n" not in str(caught.value)


def random_outcome(num: int, seed: int = 0) -> Outcome:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 50, (num, 2)) * (rng.random((num, 2)) < 0.5)
    predicted = rng.integers(0, 50, (num, 2)) * (rng.random((num, 2)) < 0.5)
    counts = np.stack([np.minimum(true, predicted) // 2, predicted, true], axis=-1)
    return Outcome(np.arange(num), counts, np.zeros((num, 3), bool), np.tile([5, 8, 9], (num, 1)))


def test_resampling_images_equals_drawing_them() -> None:
    """Four for seven: 6 * (1.96 / 2.447) ** 2 = 3.85, by Student's t of six degrees of freedom."""
    outcome = random_outcome(7)
    sums = score_sums(outcome)
    resampled = resampled_sums(sums, num_resamples=100, seed=3)
    rng = np.random.default_rng(3)
    drawn = np.concatenate([rng.integers(7, size=(64, 4)), rng.integers(7, size=(36, 4))])
    for i in (0, 63, 64, 99):
        chosen = drawn[i]
        expected = ratios(score_sums(Outcome(chosen, outcome.counts[chosen], outcome.labels[chosen])).total())
        assert ratios(resampled).mean_dice[i] == pytest.approx(expected.mean_dice)
        assert ratios(resampled).mean_dice_positive[i] == pytest.approx(expected.mean_dice_positive, nan_ok=True)
        assert ratios(resampled).iou_per_class[i] == pytest.approx(expected.iou_per_class, nan_ok=True)


def test_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    outcome = random_outcome(400)
    low, high = bootstrap(outcome, "mean_dice") or (np.nan, np.nan)
    per_image = score_sums(outcome).dice.mean(axis=1)
    error = per_image.std() / np.sqrt(400)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert low < score(outcome).mean_dice < high
    assert bootstrap(outcome, "mean_dice") == (low, high)
    assert bootstrap(outcome, "mean_dice", seed=1) != (low, high)


def copied(outcome: Outcome, times: int, *, are_told: bool) -> Outcome:
    """Each image so many times, in a group of its copies if that is told."""
    of = np.repeat(np.arange(len(outcome.rows)), times)
    return Outcome(np.arange(len(of)), outcome.counts[of], outcome.labels[of], groups=of if are_told else None)


def test_copies_that_are_told_as_such_make_no_interval_narrower() -> None:
    outcome = random_outcome(100)
    for name in ("mean_dice", "mean_dice_positive", "miou"):
        spans = [bootstrap(o, name) for o in (outcome, *(copied(outcome, 4, are_told=t) for t in (True, False)))]
        once, told, untold = (high - low for low, high in (span or (np.nan, np.nan) for span in spans))
        assert told / once == pytest.approx(1)
        assert once / untold == pytest.approx(2, rel=0.15)  # the square root of four


@pytest.mark.parametrize("num_images", [1, 3, 5, 6])
def test_images_that_are_too_few_have_no_interval(num_images: int) -> None:
    """As groups: of five all go the same way by chance more often than once in twenty."""
    rows, labels = np.arange(num_images), np.zeros((num_images, 2), bool)
    counts = np.full((num_images, 1, 3), (4, 10, 8))
    for groups in (None, rows):
        found = bootstrap(Outcome(rows, counts, labels, groups=groups), "mean_dice")
        assert (found is None) == (num_images < 6)


@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize("num_groups", [6, 8, 12, 30])
def test_few_groups_show_a_difference_that_is_none_one_time_in_twenty(num_groups: int, size: int) -> None:
    """Or less often: images of a group gain alike, and groups, or images where each is its own, do by chance."""
    rng, shown = np.random.default_rng(num_groups), 0
    groups = np.repeat(np.arange(num_groups), size)
    for _ in range(300):
        right = 50 + np.clip(np.rint(rng.normal(0, 8, num_groups)), -40, 40).astype(int)[groups]
        rows, full, labels = np.arange(len(groups)), np.full(len(groups), 100), np.zeros((len(groups), 2), bool)
        better, even = (
            Outcome(rows, np.stack([r, full, full], axis=-1)[:, None], labels, groups=groups if size > 1 else None)
            for r in (right, full // 2)
        )
        low, high = bootstrap_difference(better, even, "mean_dice", num_resamples=200) or (0, 0)
        shown += not low <= 0 <= high
    assert shown / 300 < 0.08


@pytest.mark.parametrize("num_groups", [1, 2, 5])
def test_fewer_than_six_groups_show_nothing(num_groups: int) -> None:
    outcome = random_outcome(60)
    few = Outcome(outcome.rows, outcome.counts, outcome.labels, groups=np.arange(60) % num_groups)
    assert bootstrap(few, "mean_dice") is None
    found = reach_verdict(few, ("a", "b"), "held out")
    assert found.interval == (-1, 1) == found.classes["a"].interval and not found.is_better_than_nothing
    assert f"(95 %: -1.0000 to +1.0000) on 60 images in {num_groups} group" in found.sentence


def test_groups_of_one_image_each_change_no_draw() -> None:
    outcome = random_outcome(30)
    alone = Outcome(outcome.rows, outcome.counts, outcome.labels, groups=np.arange(30) + 7)
    assert bootstrap(alone, "mean_dice") == bootstrap(outcome, "mean_dice")


def test_draws_of_groups_of_different_sizes_are_scored_by_the_images_in_them() -> None:
    """Of six groups three are drawn: 5 (1.960 / 2.571) ** 2 is 2.9."""
    outcome = random_outcome(10)
    groups = np.array([4, 9, 4, 4, 0, 9, 5, 6, 7, 7])
    sums = resampled_sums(score_sums(outcome), groups, num_resamples=20, seed=3)
    members = [np.flatnonzero(groups == group) for group in (0, 4, 5, 6, 7, 9)]
    for i, drawn in enumerate(np.random.default_rng(3).integers(6, size=(20, 3))):
        rows = np.concatenate([members[group] for group in drawn])
        assert sums.images[i] == len(rows)
        expected = score_sums(Outcome(rows, outcome.counts[rows], outcome.labels[rows])).dice.mean()
        assert ratios(sums).mean_dice[i] == pytest.approx(expected)


def test_answers_keep_their_groups_when_they_are_joined_and_chosen_from() -> None:
    outcome = random_outcome(5)
    groups = np.array([3, 3, 1, 0, 1])
    whole = Outcome(outcome.rows, outcome.counts, outcome.labels, groups=groups)
    odd = outcome.rows % 2 == 1
    joined = Outcome.concat([whole.select(odd), whole.select(~odd)])
    assert joined.groups is not None and joined.groups.tolist() == groups.tolist()
    assert Outcome.concat([whole.select(odd), outcome.select(~odd)]).groups is None


def test_differences_are_paired() -> None:
    outcome, other = random_outcome(50), random_outcome(50, seed=1)
    assert bootstrap_difference(outcome, outcome, "mean_dice") == (0, 0)
    better = Outcome(outcome.rows, outcome.counts.copy(), outcome.labels)
    better.counts[:25] = 1  # 25 images answered perfectly
    low, high = bootstrap_difference(better, outcome, "mean_dice") or (np.nan, np.nan)
    assert 0 < low < high
    assert bootstrap_difference(other, outcome, "mean_dice") is not None


def test_no_interval_without_a_value() -> None:
    assert interval(np.array([0.1, np.nan])) is None
    assert interval(np.full(1000, np.nan)) is None and interval(np.array([])) is None
    empty = Outcome(np.arange(3), np.zeros((3, 1, 3), int), np.zeros((3, 2), bool))
    assert bootstrap(empty, "mean_dice_positive") is None


def test_intervals_go_by_the_images_that_tell_of_a_score() -> None:
    """Clean images, answered as such, say nothing of positive Dice or mean IoU; a false alarm does of the latter."""
    telling_ones = random_outcome(40).select(score_sums(random_outcome(40)).positives.any(axis=1))
    num = len(telling_ones.rows)
    clean = np.zeros((900, 2, 3), int)
    among = Outcome(np.arange(num + 900), np.concatenate([telling_ones.counts, clean]), np.zeros((num + 900, 3), bool))
    for name in ("mean_dice_positive", "miou"):
        assert bootstrap(among, name) == bootstrap(telling_ones, name) is not None
    assert bootstrap(among, "mean_dice") != bootstrap(telling_ones, "mean_dice")
    alarm = Outcome(among.rows, among.counts.copy(), among.labels)
    alarm.counts[num, 0] = (0, 5, 0)
    assert bootstrap(alarm, "mean_dice_positive") == bootstrap(among, "mean_dice_positive")
    assert bootstrap(alarm, "miou") != bootstrap(among, "miou")


def test_the_interval_of_positive_dice_is_as_wide_as_that_of_a_mean_of_the_defective_images() -> None:
    """Student's t of twelve, however many clean images lie beside them."""
    rng = np.random.default_rng(0)
    right, counts = rng.integers(10, 90, 12), np.zeros((500, 1, 3), int)
    counts[:12, 0, 1:], counts[:12, 0, 0] = 100, right
    low, high = bootstrap(Outcome(np.arange(500), counts, np.zeros((500, 2), bool)), "mean_dice_positive") or (0, 0)
    error = (right / 100).std(ddof=1) / np.sqrt(12)
    assert (high - low) / (2 * 2.201 * error) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("num_with", "has_interval"), [(5, False), (6, True)])
def test_five_defective_images_among_many_clean_ones_tell_no_interval_of_positive_dice(
    num_with: int, has_interval: bool
) -> None:
    counts = np.zeros((500, 1, 3), int)
    counts[:num_with, 0, 1:], counts[:num_with, 0, 0] = 20, np.arange(5, 5 + num_with)
    answered = Outcome(np.arange(500), counts, np.zeros((500, 2), bool))
    other = Outcome(np.arange(500), counts // 2, np.zeros((500, 2), bool))
    assert (bootstrap(answered, "mean_dice_positive") is not None) == has_interval
    assert (bootstrap_difference(answered, other, "mean_dice_positive") is not None) == has_interval


def test_a_hundredth_of_the_resamples_may_have_no_value() -> None:
    values = np.arange(1000.0)
    values[::100] = np.nan
    assert interval(values) == pytest.approx(tuple(np.nanpercentile(values, [2.5, 97.5])))
    values[1] = np.nan
    assert interval(values) is None


@pytest.mark.parametrize(("num_images", "num_with"), [(9, 6), (500, 6), (500, 10)])
def test_a_class_that_few_images_have_keeps_its_interval_for_one_resample_without_them(
    num_images: int, num_with: int
) -> None:
    """A few draws in a thousand hold none of six; of forty times a thousand one does of ten, too."""
    counts = np.zeros((num_images, 1, 3), int)
    counts[:num_with, 0, 1:], counts[:num_with, 0, 0] = 20, np.arange(5, 5 + num_with)
    outcome = Outcome(np.arange(num_images), counts, np.zeros((num_images, 2), bool))
    many = [ratios(resampled_sums(score_sums(outcome), seed=seed)).mean_dice_positive for seed in range(40)]
    assert np.isnan(many).any()
    assert None not in [interval(values) for values in many]
