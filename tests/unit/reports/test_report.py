"""metrics.json, the tables, the gates side by side and the nested scores of a cross-validation."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steel.decision import ClassDecision, Decision, default_decision
from steel.errors import InputError
from steel.gates import GATES
from steel.metrics import bootstrap
from steel.metrics.scores import decide, score
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.reports.evaluation import (
    build_metrics,
    build_nested_metrics,
    build_validation_scores,
    format_table,
    write_metrics,
)
from steel.reports.gates import format_gates, gate_table
from steel.reports.tables import format_columns
from steel.thresholds.nested import nested_outcome
from steel.thresholds.search_space import SearchSpace
from steel.thresholds.tuning import tune_thresholds

SPACE = SearchSpace(pixel_thresholds=(60, 128, 190), label_thresholds=(64, 128, 192), area_steps=3)
NAMES = ("spot", "scratch")


def make_statistics(num: int = 40, seed: int = 0, decision: Decision | None = None) -> EvaluationStatistics:
    rng = np.random.default_rng(seed)

    def images() -> Iterator[ImageStatistics]:
        for row in range(num):
            bitmask = np.zeros((12, 12), np.uint8)
            if row % 2:
                bitmask[2:8, 2 : 5 + row % 4] |= 1
            if row % 3 == 0:
                bitmask[8:, 3:9] |= 2
            truth = np.stack([bitmask & 1, bitmask >> 1 & 1])
            probs = np.clip(rng.normal(60, 40, truth.shape) + 120 * truth, 0, 255).astype(np.uint8)
            present = truth.any(axis=(1, 2))
            labels = np.clip(rng.normal(60, 50, 3) + 130 * np.array([present.any(), *present]), 0, 255).astype(np.uint8)
            yield image_statistics(row, probs, labels, bitmask, decision=decision)

    return EvaluationStatistics.from_images(images(), 2, decision)


def test_metrics_have_their_names_and_plain_values() -> None:
    decision = Decision((ClassDecision(100), ClassDecision(140, min_area=5)), "class", 128, ("hflip",))
    statistics = make_statistics(decision=decision)
    metrics = build_metrics(statistics, decision, folds=[1], role="test", class_names=NAMES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert set(metrics) == {
        *("mean_dice", "mean_dice_all_empty", "mean_dice_positive", "dice_per_class", "dice_positive_per_class"),
        *("iou_per_class", "miou", "miou_with_background", "cross_entropy", "classification"),
        *("predicted_images_per_class", "true_images_per_class", "intervals"),
        *("images", "folds", "role", "tta", "decision", "cross_fitted", "verdict"),
    }
    scores = score(decide(statistics, decision))
    assert metrics["mean_dice"] == scores.mean_dice
    assert metrics["iou_per_class"] == {"spot": scores.iou_per_class[0], "scratch": scores.iou_per_class[1]}
    assert metrics["miou_with_background"] == scores.miou_with_background
    assert metrics["true_images_per_class"] == {"spot": 20, "scratch": 14}
    assert (metrics["images"], metrics["folds"], metrics["role"], metrics["tta"]) == (40, [1], "test", ["hflip"])
    assert Decision.from_dict(metrics["decision"]) == decision
    low, high = metrics["intervals"]["mean_dice"]
    assert low < metrics["mean_dice"] < high


def test_the_verdict_is_on_what_is_cross_fitted_where_the_decision_was_found_on_the_same_images() -> None:
    statistics = make_statistics()
    nothing = decide(statistics, default_decision(2))
    nothing.counts[..., :2] = 0
    where = {"folds": [0], "class_names": NAMES}
    held_out = build_metrics(statistics, default_decision(2), role="test", **where)
    assert held_out["cross_fitted"] is None
    assert held_out["verdict"]["gain"] == pytest.approx(held_out["mean_dice"] - held_out["mean_dice_all_empty"])
    assert held_out["verdict"]["basis"] == "held out"
    tuned = build_metrics(statistics, default_decision(2), role="tuning", cross_fitted=nothing, **where)
    assert tuned["mean_dice"] == held_out["mean_dice"]
    assert tuned["cross_fitted"] == {
        "mean_dice": tuned["mean_dice_all_empty"],
        "mean_dice_positive": 0,
        "dice_per_class": {"spot": 0.5, "scratch": 26 / 40},
        "dice_positive_per_class": {"spot": 0, "scratch": 0},
    }
    assert tuned["verdict"]["basis"] == "cross-fitted"
    assert tuned["verdict"]["never_answered"] == ["spot", "scratch"]
    assert f", cross-fitted {tuned['mean_dice_all_empty']:.4f}, all-empty floor" in format_table(tuned)
    seen = build_metrics(statistics, default_decision(2), role="train", cross_fitted=nothing, **where)
    assert seen["verdict"]["basis"] == "cross-fitted, but trained on"


def test_a_validation_in_training_has_a_few_of_the_metrics_and_resamples_once(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics, decision = make_statistics(), Decision((ClassDecision(100), ClassDecision(140)), "class", 128)
    other = decide(statistics, default_decision(2))
    metrics = build_metrics(statistics, decision, folds=[0], role="tuning", class_names=NAMES, cross_fitted=other)
    resample, resampled = bootstrap.resample_weights, []
    monkeypatch.setattr(
        bootstrap, "resample_weights", lambda *arguments: resampled.append(arguments) or resample(*arguments)
    )
    scores = build_validation_scores(statistics, decision, other, class_names=NAMES)
    assert len(resampled) == 1  # for the warning; nobody reads an interval there
    overall = ("mean_dice", "mean_dice_all_empty", "mean_dice_positive", "miou", "cross_entropy")
    named = (*overall, "dice_positive_per_class")
    assert {name: scores.pop(name) for name in named} == {name: metrics[name] for name in named}
    assert scores == {
        "mean_dice_cross_fitted": score(other).mean_dice,
        "warning": metrics["verdict"]["warning"],
        "f1": {name: metrics["classification"][name]["f1"] for name in ("any", *NAMES)},
    }


def test_classification_is_the_head_at_the_thresholds_of_the_decision() -> None:
    statistics = make_statistics()
    thresholds = Decision((ClassDecision(label_threshold=255), ClassDecision(label_threshold=0)), "none", 120)
    metrics = build_metrics(statistics, thresholds, folds=[0], role="test", class_names=NAMES)
    heads = metrics["classification"]
    assert list(heads) == ["any", "spot", "scratch"]
    assert heads["scratch"] == {
        "accuracy": 14 / 40,
        "precision": 14 / 40,
        "recall": 1.0,
        "f1": pytest.approx(2 * 14 / (40 + 14)),
    }
    rows = np.arange(40)
    defective, said = (rows % 2 == 1) | (rows % 3 == 0), statistics.label_probs[:, 0] >= 120
    assert heads["any"]["accuracy"] == np.mean(defective == said)
    assert heads["any"]["recall"] == np.sum(defective & said) / np.sum(defective)


def test_scores_without_a_value_are_null() -> None:
    statistics = make_statistics(num=2).select(np.array([False, True]))  # has no scratch
    metrics = build_metrics(statistics, default_decision(2), folds=[0], role="tuning", class_names=NAMES)
    assert metrics["dice_positive_per_class"]["scratch"] is None
    assert metrics["miou_with_background"] is None
    assert "-" in format_table(metrics).splitlines()[5]


def test_metrics_are_equal_for_any_number_of_ranks() -> None:
    decision = default_decision(2)
    whole = make_statistics(decision=decision)
    third = np.arange(40) % 3
    joined = EvaluationStatistics.concat([whole.select(third == r) for r in (2, 0, 1)])
    one, three = (build_metrics(s, decision, folds=[1], role="test", class_names=NAMES) for s in (whole, joined))
    assert one == three


def test_no_images_and_a_class_called_any_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        build_metrics(
            EvaluationStatistics.from_images([], 2), default_decision(2), folds=[1], role="test", class_names=NAMES
        )
    with pytest.raises(InputError, match="called 'any'"):
        build_metrics(make_statistics(), default_decision(2), folds=[1], role="test", class_names=("any", "spot"))


def test_the_table_is_of_one_image_where_there_is_one() -> None:
    metrics = build_metrics(make_statistics(), default_decision(2), folds=[0], role="test", class_names=NAMES)
    assert format_table(metrics | {"images": 1}).startswith("1 image, folds 0")


def test_the_table_shows_the_floor_and_warns_of_flattery() -> None:
    metrics = build_metrics(make_statistics(), default_decision(2), folds=[0, 2], role="train", class_names=NAMES)
    text = format_table(metrics)
    assert "40 images, folds 0, 2 (TRAINED ON: these scores flatter), TTA none" in text
    assert f"all-empty floor {metrics['mean_dice_all_empty']:.4f}" in text
    for name in NAMES:
        row = next(line for line in text.splitlines() if line.startswith(name))
        assert f"{metrics['dice_positive_per_class'][name]:.4f}" in row
        assert f"{metrics['classification'][name]['f1']:.4f}" in row


def test_metrics_are_written_whole(tmp_path: Path) -> None:
    metrics = build_metrics(make_statistics(), default_decision(2), folds=[0], role="test", class_names=NAMES)
    write_metrics(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    with pytest.raises(ValueError, match="JSON"):
        write_metrics(tmp_path / "broken.json", {"mean_dice": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_every_gate_is_tuned_and_judged_elsewhere() -> None:
    tuned_on, judged = make_statistics(seed=1), make_statistics(seed=2)
    results = gate_table(tune_thresholds(tuned_on, space=SPACE).by_gate, judged)
    assert tuple(r.gate for r in results) == tuple(GATES)
    for result in results:
        alone = tune_thresholds(tuned_on, gates=(result.gate,), space=SPACE).by_gate[result.gate]
        assert result.decision == alone
        assert result.scores.mean_dice == score(decide(judged, alone)).mean_dice
        assert result.mean_dice_interval is not None
        assert (result.gain_interval is None) == (result.gate == "none")
    markdown = format_gates(results, markdown=True).splitlines()
    assert [line.split("|")[1].strip() for line in markdown[2:7]] == list(GATES)
    assert "answering nothing gets" in markdown[-1]
    assert len(format_gates(results).splitlines()) == 7


def test_each_fold_is_judged_by_thresholds_found_on_the_others() -> None:
    statistics = make_statistics(num=45, seed=5)
    folds = np.arange(45) % 3
    nested = nested_outcome(statistics, folds, space=SPACE, gates=("none", "class"))
    assert sorted(nested.decisions) == [0, 1, 2]
    assert np.array_equal(nested.outcome.rows, statistics.rows)
    for fold in range(3):
        expected = tune_thresholds(statistics.select(folds != fold), space=SPACE, gates=("none", "class")).decision
        assert nested.decisions[fold] == expected
        mine = folds == fold
        assert np.array_equal(nested.outcome.counts[mine], decide(statistics.select(mine), expected).counts)
    shipped = tune_thresholds(statistics, space=SPACE, gates=("none", "class")).decision
    metrics = build_nested_metrics(statistics, nested, shipped, folds, role="test", class_names=NAMES)
    assert metrics["mean_dice"] == metrics["cross_fitted"]["mean_dice"] == score(nested.outcome).mean_dice
    assert metrics["verdict"]["basis"] == "cross-fitted"
    assert metrics["folds"] == [0, 1, 2]
    told = format_table(metrics).splitlines()[0]  # the thresholds are free of it, the weights are not
    assert (
        told
        == "45 images, folds 0, 1, 2 (each fold chose the weights of the member that it judges: these scores "
        + ("flatter a little), TTA none")
    )
    assert Decision.from_dict(metrics["decision"]) == shipped
    assert list(metrics["per_fold"]) == ["0", "1", "2"]
    assert Decision.from_dict(metrics["per_fold"]["1"]["decision"]) == nested.decisions[1]
    of_fold = score(decide(statistics.select(folds == 1), nested.decisions[1]))
    assert metrics["per_fold"]["1"]["mean_dice"] == of_fold.mean_dice
    assert metrics["per_fold"]["1"]["images"] == 15
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_a_fold_has_no_say_in_its_own_answer() -> None:
    statistics = make_statistics(num=40, seed=6)
    folds = np.arange(40) // 20
    changed = statistics.histograms.copy()
    changed[folds == 1] = changed[folds == 1, :, :, ::-1]  # turn the probabilities of fold 1 upside down
    other = EvaluationStatistics(statistics.rows, changed, statistics.label_probs)
    first, second = (nested_outcome(s, folds, space=SPACE).decisions for s in (statistics, other))
    assert first[1] == second[1]
    assert first[0] != second[0]


def test_nesting_needs_two_folds() -> None:
    with pytest.raises(InputError, match="two folds"):
        nested_outcome(make_statistics(), np.zeros(40, int))


def test_columns_line_up() -> None:
    rows = [["class", "Dice"], ["a", "0.5"], ["longer", "1"]]
    assert format_columns(rows) == "class   Dice\na        0.5\nlonger     1"
    assert format_columns(rows, markdown=True).splitlines()[1] == "| ------ | ---: |"


def test_gates_on_images_without_any_defect_have_a_dash_where_there_is_no_score() -> None:
    clean = make_statistics(seed=3)
    histograms = clean.histograms.copy()
    histograms[:, :, 0] += histograms[:, :, 1]
    histograms[:, :, 1] = 0
    judged = EvaluationStatistics(clean.rows, histograms, clean.label_probs)
    results = gate_table({"none": default_decision(histograms.shape[1])}, judged)
    assert "nan" not in format_gates(results) and format_gates(results).splitlines()[1].endswith(" -")
