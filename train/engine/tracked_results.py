"""What an experiment tracker is shown of a run's data and of its outcome."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from steel.errors import told_url
from steel.labels.classes import ANY
from steel.metrics.confusion import image_confusion
from steel.metrics.counts import PREDICTED, TRUE
from steel.metrics.curves import level_counts, threshold_curve
from steel.metrics.scores import decide
from steel.model.network import UnifiedModel
from steel.plain import to_dict
from steel.reports.per_image import image_rows
from steel.tracking.items import Confusion, Files, ImageTable, Item, PrecisionRecall, Summary
from train.engine.run_context import RunContext
from train.engine.run_folder import RunFolder
from train.engine.validation import ValidationResult, predictor_of
from train.engine.visualise import predict_examples

NUM_WORST = 12
"""Validation images in the table of the worst."""


def dataset_item(context: RunContext) -> Files:
    """The data that the run trains on, under its digest."""
    manifest, rows = context.reader.manifest, context.rows
    return Files(
        kind="dataset",
        name=f"shards-{manifest.digest[:12]}",
        description=f"{len(context.reader.index.areas):,} images of {manifest.num_classes} classes in shards",
        texts={"manifest.json": json.dumps(to_dict(manifest), indent=1, default=str)},
        metadata={
            "path": told_url(context.reader.root),
            "digest": manifest.digest,
            "images": len(context.reader.index.areas),
            "classes": list(manifest.class_names),
            "train_images": len(rows.train),
            "validation_images": len(rows.validation),
            "test_images": len(rows.test),
            "train_folds": list(rows.train_folds),
            "validation_folds": list(context.config.folds.validation),
        },
        is_input=True,
    )


def tracked_results(
    context: RunContext, model: UnifiedModel, result: ValidationResult, metrics: Mapping[str, Any], folder: RunFolder
) -> Iterator[Item]:
    """The outcome: worst images, curves, confusion, tuned scores and gates, checkpoint and report.

    Args:
        context: of the run.
        model: with the weights that are shipped.
        result: what the validation folds say of them.
        metrics: of the same.
        folder: with everything written.
    """
    names, statistics, decision = context.reader.manifest.class_names, result.statistics, result.tuning.decision
    outcome = decide(statistics, decision)
    true, said = outcome.counts[..., TRUE] > 0, outcome.counts[..., PREDICTED] > 0
    yield Summary(summary_values(metrics, {gate: d.to_dict() for gate, d in result.tuning.by_gate.items()}))
    yield Confusion("val/confusion", ["none", *names], image_confusion(true, said))
    labels = np.concatenate([true.any(axis=1, keepdims=True), true], axis=1)
    curves = {
        name: threshold_curve(level_counts(statistics.label_probs[:, i], labels[:, i]))
        for i, name in enumerate((ANY, *names))
        if labels[:, i].any()
    }
    if curves:
        yield PrecisionRecall("val/precision_recall", curves)
    worst = image_rows(statistics, outcome, context.reader.index, names)[:NUM_WORST]
    predictor = predictor_of(context, model, context.config.validation.tta)
    images = predict_examples(predictor, decision, context.reader, [line.row for line in worst])
    yield ImageTable("val/worst", names, images, [line.values for line in worst])
    scores = {name: metrics[name] for name in ("mean_dice", "mean_dice_all_empty", "mean_dice_positive")}
    about = {**scores, "verdict": metrics["verdict"]["sentence"], "data_digest": context.reader.manifest.digest}
    report = [folder.report, folder.root / "validation.json", folder.model_card, folder.curves]
    run = folder.root.resolve().name
    yield Files("report", f"{run}-report", f"report of {run}", [p for p in report if p.exists()], metadata=about)
    about |= {"classes": list(names), "decision": decision.to_dict(), "network": to_dict(model.network)}
    yield Files("model", f"{run}-model", f"model of {run}", [folder.checkpoint], metadata=about)


def summary_values(metrics: Mapping[str, Any], gates: Mapping[str, Any]) -> dict[str, Any]:
    """Of all scores those of the shipped decision, and how it and each other gate decide."""
    left_out = ("folds", "role", "tta", "decision", "verdict")
    return {
        "verdict": metrics["verdict"]["sentence"],
        "better_than_nothing": metrics["verdict"]["better_than_nothing"],
        "tuned": {name: value for name, value in metrics.items() if name not in left_out},
        "decision": metrics["decision"],
        "gates": dict(gates),
    }
