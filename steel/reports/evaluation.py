"""`metrics.json`: the scores of a decision on some folds, under fixed names, and the same as a short table.

The names are those of `steel.metrics.table.METRICS`, beside what the scores are of, the decision and the verdict.
Scores without a value (the Dice of a class that no image has, say) are `null`. `classification` judges the head alone,
at the decision's `binary_threshold` (for `any`) and `label_threshold` of each class, against the classes that an image
truly has pixels of; the masks have no say in it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steel.decision import Decision
from steel.errors import InputError, counted
from steel.labels.classes import ANY
from steel.metrics.scores import Outcome, decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.metrics.table import METRICS, MetricInputs, compute, headings, plain_number
from steel.metrics.verdict import reach_verdict
from steel.reports.tables import format_columns
from steel.storage import write_text
from steel.thresholds.nested import Nested

ROLES = ("train", "tuning", "test", "unknown")
_ROLE_WORDS = {
    "train": "TRAINED ON: these scores flatter",
    "tuning": "they chose its weights or its decision: these scores flatter a little",
    "test": "held out",
    "unknown": "other shards than its own: whether it has seen these images is not known",
}
_NESTED_WORDS = {
    "train": "a checkpoint that members learned from was TRAINED ON folds that they judge: these scores flatter",
    "test": "each fold chose the weights of the member that it judges: these scores flatter a little",
}
"""Of a cross-validation."""

_OF_FOLD = (
    "mean_dice", "mean_dice_all_empty", "mean_dice_positive", "dice_per_class", "dice_positive_per_class",
    "true_images_per_class", "intervals",
)  # fmt: skip
_CROSS_FITTED = ("mean_dice", "mean_dice_positive", "dice_per_class", "dice_positive_per_class")
_NUMBERS = re.compile(r"\[\n(?:\s*(?:null|[-+.\deE]+),?\n)+\s*\]")
"""A list of numbers as `json` indents it; no string has a line break."""
_BASIS = {"train": "trained on", "tuning": "tuned on", "test": "held out", "unknown": "other shards than its own"}


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
    inputs = _metric_inputs(outcome, statistics, class_names, seed)
    basis = _BASIS[role] if cross_fitted is None else _cross_fitted_basis(role)
    return {
        "images": len(statistics),
        "folds": [int(fold) for fold in folds],
        "role": role,
        "tta": list(decision.tta if tta is None else tta),
        **compute(inputs, tuple(METRICS)),
        "decision": decision.to_dict(),
        "cross_fitted": None if cross_fitted is None else compute(replace(inputs, outcome=cross_fitted), _CROSS_FITTED),
        "verdict": reach_verdict(cross_fitted or outcome, class_names, basis, seed=seed).to_dict(),
    }


def build_nested_metrics(
    statistics: EvaluationStatistics,
    nested: Nested,
    shipped: Decision,
    folds: np.ndarray,
    *,
    role: str,
    class_names: Sequence[str],
    tta: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The same for a cross-validation: each fold answered by the decision found on the others.

    `role` is `test` where no image was trained on by the member that answers it, or had a say in its thresholds; its
    fold chose among that member's weights all the same, which flatters a little, as `role_words` says. It is `train`
    where members have learned from a checkpoint that was trained on the fold that they answer. `decision` is the
    `shipped` one, found on all folds; `per_fold` has the scores of each fold with the decision that answered it.
    `folds` (N,) are those of the images.
    """
    assert role in _NESTED_WORDS, role
    inputs = _metric_inputs(nested.outcome, statistics, class_names, seed)
    return {
        "images": len(statistics),
        "folds": sorted(nested.decisions),
        "role": role,
        "tta": list(tta),
        **compute(inputs, tuple(METRICS)),
        "decision": shipped.to_dict(),
        "per_fold": {
            str(fold): _of_fold(statistics, nested.outcome, folds == fold, class_names, seed)
            | {"decision": decision.to_dict()}
            for fold, decision in nested.decisions.items()
        },
        "cross_fitted": compute(inputs, _CROSS_FITTED),
        "verdict": reach_verdict(nested.outcome, class_names, _cross_fitted_basis(role), seed=seed).to_dict(),
    }


def _cross_fitted_basis(role: str) -> str:
    return "cross-fitted" + ", but trained on" * (role == "train")


def _of_fold(
    statistics: EvaluationStatistics, outcome: Outcome, mine: np.ndarray, class_names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Scores of the images where `mine` (N,) bool is set."""
    answers = outcome.select(mine)
    inputs = _metric_inputs(answers, statistics.select(mine), class_names, seed)
    return {"images": len(answers.rows), **compute(inputs, _OF_FOLD)}


def build_validation_scores(
    statistics: EvaluationStatistics,
    decision: Decision,
    cross_fitted: Outcome,
    *,
    class_names: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """The scores that a validation in the midst of training is judged by, named as in `build_metrics`.

    Those metrics that are watched; `warning` alone needs a resampling, that of the `cross_fitted` answers.
    """
    outcome = decide(statistics, decision)
    inputs = _metric_inputs(outcome, statistics, class_names, seed)
    heads = compute(inputs, ["classification"])["classification"]
    return {
        **compute(inputs, [name for name, metric in METRICS.items() if metric.is_watched]),
        "mean_dice_cross_fitted": plain_number(score(cross_fitted).mean_dice),
        "warning": reach_verdict(cross_fitted, class_names, "cross-fitted", seed=seed).warning or None,
        "f1": {name: of_label["f1"] for name, of_label in heads.items()},
    }


def _metric_inputs(
    outcome: Outcome, statistics: EvaluationStatistics, class_names: Sequence[str], seed: int
) -> MetricInputs:
    if len(outcome.rows) == 0:
        raise InputError("evaluation: there are no images in these folds; choose others")
    if ANY in class_names:
        raise InputError(f"evaluation: no class can be called '{ANY}', which stands for any defect; rename it")
    return MetricInputs(outcome, statistics, class_names, seed)


def write_metrics(path: str | Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`, whole or not at all; lists of numbers take a line each."""
    text = json.dumps(metrics, indent=2, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


def role_words(metrics: Mapping[str, Any]) -> str:
    """What the judged images were to what answered them, of `metrics.json`'s values."""
    return (_NESTED_WORDS if "per_fold" in metrics else _ROLE_WORDS)[metrics["role"]]


def format_table(metrics: Mapping[str, Any]) -> str:
    """A short text for terminals: mean Dice beside the all-empty floor, then positive Dice and F1 per class."""
    folds = ", ".join(str(fold) for fold in metrics["folds"])
    flips = ", ".join(metrics["tta"]) or "none"
    span = metrics["intervals"]["mean_dice"]
    spread = "" if span is None else f" (95 %: {span[0]:.4f} to {span[1]:.4f})"
    found = metrics["cross_fitted"]
    further = {"mean_dice": spread + ("" if found is None else f", cross-fitted {_number(found['mean_dice'])}")}
    columns = headings(metrics, per_class=True)
    numbers = [
        f"{heading} {_number(metrics[name])}{further.get(name, '')}"
        for name, heading in headings(metrics, per_class=False).items()
    ]
    head = [
        f"{counted(metrics['images'], 'image')}, folds {folds} ({role_words(metrics)}), TTA {flips}",
        ", ".join(numbers),
    ]
    rows = [["class", *columns.values(), "head F1", "images true", "predicted"]]
    for name in metrics["dice_per_class"]:
        rows.append(
            [
                name,
                *(_number(metrics[key][name]) for key in columns),
                _number(metrics["classification"][name]["f1"]),
                f"{metrics['true_images_per_class'][name]:,}",
                f"{metrics['predicted_images_per_class'][name]:,}",
            ]
        )
    rows.append(["any", *[""] * len(columns), _number(metrics["classification"][ANY]["f1"]), "", ""])
    return "\n".join([*head, "", format_columns(rows)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
