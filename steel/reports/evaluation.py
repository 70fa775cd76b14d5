"""`metrics.json`: the scores of a decision on some folds, under fixed names, and the same as a short table.

Scores without a value (the Dice of a class that no image has, say) are `null`. `classification` judges the head alone,
at the decision's `binary_threshold` (for `any`) and `label_threshold` of each class, against the classes that an image
truly has pixels of; the masks have no say in it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from steel.decision import Decision
from steel.errors import InputError
from steel.labels.classes import ANY
from steel.metrics.bootstrap import CONFIDENCE, NUM_RESAMPLES, interval, resampled_sums
from steel.metrics.counts import PREDICTED, TRUE, cross_entropy
from steel.metrics.scores import Outcome, decide, label_scores, ratios, score, score_sums
from steel.metrics.statistics import EvaluationStatistics
from steel.metrics.verdict import judge
from steel.reports.tables import format_columns
from steel.storage import write_text
from steel.thresholds.nested import Nested

ROLES = ("train", "tuning", "test")

_BASIS = {"train": "trained on", "tuning": "tuned on", "test": "held out"}
_OVERALL = ("mean_dice", "mean_dice_all_empty", "mean_dice_positive", "miou", "miou_with_background")
_PER_CLASS = ("dice_per_class", "dice_positive_per_class", "iou_per_class")
_WITH_INTERVAL = ("mean_dice", "mean_dice_positive", "miou", "miou_with_background")
_OF_VALIDATION = ("mean_dice", "mean_dice_all_empty", "mean_dice_positive", "dice_positive_per_class", "miou")


def build_metrics(
    statistics: EvaluationStatistics,
    decision: Decision,
    *,
    folds: Sequence[int],
    role: str,
    class_names: Sequence[str],
    tta: Sequence[str] | None = None,
    cross_fitted: Outcome | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All of `metrics.json`, in plain JSON values.

    `verdict` holds the scores against those of answering nothing. Where the decision was found on these very images,
    it judges the answers that are `cross_fitted`, and so do the scores under that name; all others flatter.

    Args:
        statistics: of the judged images.
        decision: what answers them.
        folds: the judged folds.
        role: one of `ROLES`: what those folds were to the checkpoint.
        class_names: C names; per-class scores are under them.
        tta: the flipped views behind the statistics; the decision's when None.
        cross_fitted: answers to the same images, each by what others say, where the decision was found on them.
        seed: of the bootstrap intervals.

    Raises:
        InputError: there are no images.
    """
    assert role in ROLES, role
    outcome = decide(statistics, decision)
    basis = _BASIS[role] if cross_fitted is None else "cross-fitted" + ", but trained on" * (role == "train")
    return {
        "images": len(statistics),
        "folds": [int(fold) for fold in folds],
        "role": role,
        "tta": list(decision.tta if tta is None else tta),
        **_scores(outcome, class_names),
        "intervals": _intervals(outcome, seed),
        "cross_entropy": cross_entropy(statistics.histograms),
        "decision": decision.to_dict(),
        "cross_fitted": None if cross_fitted is None else _cross_fitted(cross_fitted, class_names),
        "verdict": judge(cross_fitted or outcome, class_names, basis, seed=seed).to_dict(),
    }


def build_validation_scores(
    statistics: EvaluationStatistics,
    decision: Decision,
    cross_fitted: Outcome,
    *,
    class_names: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """The few scores that a validation in the midst of training is judged by, named as in `build_metrics`.

    Without the intervals; `warning` alone needs a resampling, that of the `cross_fitted` answers.
    """
    scores = _scores(decide(statistics, decision), class_names)
    return {
        **{name: scores[name] for name in _OF_VALIDATION},
        "cross_entropy": cross_entropy(statistics.histograms),
        "mean_dice_cross_fitted": _plain(score(cross_fitted).mean_dice),
        "warning": judge(cross_fitted, class_names, _BASIS["tuning"], seed=seed).warning or None,
        "f1": {name: of_label["f1"] for name, of_label in scores["classification"].items()},
    }


def build_nested_metrics(
    statistics: EvaluationStatistics,
    nested: Nested,
    *,
    class_names: Sequence[str],
    tta: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The same for a cross-validation: each fold answered by the decision found on the others.

    `role` is `test`, since no image had a say in its own answer, and `decision` holds one decision a fold.
    """
    return {
        "images": len(statistics),
        "folds": sorted(nested.decisions),
        "role": "test",
        "tta": list(tta),
        **_scores(nested.outcome, class_names),
        "intervals": _intervals(nested.outcome, seed),
        "cross_entropy": cross_entropy(statistics.histograms),
        "decision": {str(fold): decision.to_dict() for fold, decision in nested.decisions.items()},
        "cross_fitted": _cross_fitted(nested.outcome, class_names),
        "verdict": judge(nested.outcome, class_names, "cross-fitted", seed=seed).to_dict(),
    }


def _cross_fitted(outcome: Outcome, class_names: Sequence[str]) -> dict[str, Any]:
    scores = score(outcome)
    return {
        "mean_dice": _plain(scores.mean_dice),
        "mean_dice_positive": _plain(scores.mean_dice_positive),
        "dice_per_class": _by_class(scores.dice_per_class, class_names),
        "dice_positive_per_class": _by_class(scores.dice_positive_per_class, class_names),
    }


def _scores(outcome: Outcome, class_names: Sequence[str]) -> dict[str, Any]:
    if len(outcome.rows) == 0:
        raise InputError("evaluation: there are no images in these folds; choose others")
    if ANY in class_names:
        raise InputError(f"evaluation: no class can be called '{ANY}', which stands for any defect; rename it")
    scores = score(outcome)
    return {
        **{name: _plain(getattr(scores, name)) for name in _OVERALL},
        **{name: _by_class(getattr(scores, name), class_names) for name in _PER_CLASS},
        "predicted_images_per_class": _by_class(_images_with(outcome, PREDICTED), class_names),
        "true_images_per_class": _by_class(_images_with(outcome, TRUE), class_names),
        "classification": _classification(outcome, class_names),
    }


def _intervals(outcome: Outcome, seed: int) -> dict[str, Any]:
    """Bootstrap intervals of the overall scores: a thousand resamples of all images."""
    resampled = ratios(resampled_sums(score_sums(outcome), seed=seed))
    intervals = {name: interval(getattr(resampled, name)) for name in _WITH_INTERVAL}
    return {
        "confidence": CONFIDENCE,
        "resamples": NUM_RESAMPLES,
        **{name: None if span is None else list(span) for name, span in intervals.items()},
    }


def _images_with(outcome: Outcome, kind: int) -> np.ndarray:
    return np.count_nonzero(outcome.counts[..., kind], axis=0)


def _classification(outcome: Outcome, class_names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    true = outcome.true_labels
    return {
        name: {key: _plain(value) for key, value in asdict(label_scores(outcome.labels[:, i], true[:, i])).items()}
        for i, name in enumerate((ANY, *class_names))
    }


def _by_class(values: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(class_names, values, strict=True)}


def _plain(value: Any) -> Any:
    number = np.asarray(value).item()
    return None if isinstance(number, float) and math.isnan(number) else number


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`, whole or not at all."""
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def format_table(metrics: Mapping[str, Any]) -> str:
    """A short text for terminals: mean Dice beside the all-empty floor, then positive Dice and F1 per class."""
    folds = ", ".join(str(fold) for fold in metrics["folds"])
    flips = ", ".join(metrics["tta"]) or "none"
    span = metrics["intervals"]["mean_dice"]
    spread = "" if span is None else f" (95 %: {span[0]:.4f} to {span[1]:.4f})"
    floor = _number(metrics["mean_dice_all_empty"])
    found = metrics["cross_fitted"]
    honest = "" if found is None else f", cross-fitted {_number(found['mean_dice'])}"
    head = [
        f"{metrics['images']:,} images, folds {folds} ({_role_words(metrics['role'])}), TTA {flips}",
        f"mean Dice {_number(metrics['mean_dice'])}{spread}{honest}, all-empty floor {floor}, "
        f"positive Dice {_number(metrics['mean_dice_positive'])}, mean IoU {_number(metrics['miou'])}",
    ]
    rows = [["class", "Dice", "positive Dice", "IoU", "head F1", "images true", "predicted"]]
    for name in metrics["dice_per_class"]:
        rows.append(
            [
                name,
                *(_number(metrics[key][name]) for key in _PER_CLASS),
                _number(metrics["classification"][name]["f1"]),
                f"{metrics['true_images_per_class'][name]:,}",
                f"{metrics['predicted_images_per_class'][name]:,}",
            ]
        )
    rows.append(["any", "", "", "", _number(metrics["classification"][ANY]["f1"]), "", ""])
    return "\n".join([*head, "", format_columns(rows)])


def _role_words(role: str) -> str:
    return {
        "train": "TRAINED ON: these scores flatter",
        "tuning": "the decision was tuned on them: these scores flatter a little",
        "test": "held out",
    }[role]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
