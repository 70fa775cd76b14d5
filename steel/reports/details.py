"""What the report shows beyond the scores: these are further names in `metrics.json`, in plain JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from steel.decision import Decision
from steel.labels.classes import ANY
from steel.metrics.bootstrap import FEWEST_IMAGES
from steel.metrics.confusion import image_confusion
from steel.metrics.counts import NUM_BINS, PREDICTED, TRUE
from steel.metrics.curves import level_counts, reliability, threshold_curve
from steel.metrics.label_doubts import Doubt
from steel.metrics.scores import Outcome, decide
from steel.metrics.sizes import area_table, scores_by_size
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.gates import gate_table
from steel.reports.plain_values import plain
from steel.reports.strips import count_strips, operating_curves
from steel.thresholds.explanation import FEW_IMAGES
from steel.thresholds.landscape import landscapes


def build_details(
    statistics: EvaluationStatistics,
    decision: Decision,
    *,
    class_names: Sequence[str],
    verdict: Mapping[str, Any],
    gates: Mapping[str, Decision],
    doubts: Sequence[Doubt],
    outcome: Outcome | None = None,
) -> dict[str, Any]:
    """All further names of `metrics.json` that follow from the statistics.

    Args:
        statistics: of the judged images, with the background under `decision` for the confusion of pixels.
        decision: what answers them.
        class_names: C names.
        verdict: `metrics["verdict"]`.
        gates: other decisions to hold beside each other, by their gates; may be empty.
        doubts: images whose labels are in doubt.
        outcome: the answers, where they are not those of `decision`: of a cross-validation.
    """
    outcome = outcome or decide(statistics, decision)
    confusion = statistics.confusion if statistics.decision == decision else None
    names = (ANY, *class_names)
    true = outcome.true_labels
    return {
        "standing_per_class": standing_per_class(outcome, class_names, verdict),
        "strips": count_strips(outcome, class_names),
        "operating_curves": operating_curves(outcome, statistics.label_probs, class_names),
        "head": {
            name: _quality(level_counts(statistics.label_probs[:, i], true[:, i])) for i, name in enumerate(names)
        },
        "pixels": {
            name: _pixel_scores(outcome.counts[:, k], statistics.histograms[:, k].sum(axis=0, dtype=np.int64))
            for k, name in enumerate(class_names)
        },
        "confusion": {
            "images": plain(image_confusion(true[:, 1:], outcome.counts[..., PREDICTED] > 0)),
            "pixels": None if confusion is None else plain(confusion.sum(axis=0)),
        },
        "sizes": {ANY: _sizes(outcome.counts)}
        | {name: _sizes(outcome.counts[:, k]) for k, name in enumerate(class_names)},
        "areas": _areas(outcome, class_names),
        "landscape": {
            name: plain(asdict(ground))
            for name, ground in zip(class_names, landscapes(statistics, decision), strict=True)
        },
        "gates": _gates(gates, statistics),
        "label_doubts": {"images": len(doubts), "regions": sum(len(doubt.regions) for doubt in doubts)},
    }


def standing_per_class(
    outcome: Outcome, class_names: Sequence[str], verdict: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Whether each class works, in words, and the number of images that this rests on."""
    result = {}
    are_enough = outcome.num_groups >= FEWEST_IMAGES
    why = (
        "what it gains over never answering it may be chance"
        if are_enough
        else "so few images, or groups, show nothing"
    )
    for name, images in zip(class_names, np.count_nonzero(outcome.counts[..., TRUE], axis=0).tolist(), strict=True):
        low, high = verdict["gain_interval_per_class"][name]
        if images == 0:
            state, words = "absent", "no image has it: nothing can be said of finding it"
        elif name in verdict["never_answered"]:
            state, words = "never answered", "is never answered: the model finds none of it"
        elif low > 0:
            state, words = "works", "works: better than never answering it, beyond what chance gives"
        elif high < 0:
            state, words = "harmful", "does harm: it would score more if it were never answered"
        else:
            state, words = "not shown", f"is not shown to work: {why}"
        result[name] = {"state": state, "words": words, "images": images, "few": 0 < images < FEW_IMAGES}
    return result


def _quality(levels: np.ndarray) -> dict[str, Any]:
    """Areas under the curves of level counts, and how far the probabilities can be believed."""
    curve, trust = threshold_curve(levels), reliability(levels)
    return {
        "average_precision": plain(curve.average_precision),
        "roc_area": plain(curve.roc_area),
        "calibration_error": plain(trust.expected_calibration_error),
        "reliability": plain({name: getattr(trust, name) for name in ("counts", "predicted", "observed")}),
    }


def _pixel_scores(counts: np.ndarray, levels: np.ndarray) -> dict[str, Any]:
    """Of one class: (N, 3) counts as decided, and its level counts over all pixels."""
    hits, said, there = (int(n) for n in counts.sum(axis=0))
    curve = threshold_curve(levels)
    return {
        "precision": hits / said if said else None,
        "recall": hits / there if there else None,
        **_quality(levels),
        "found": curve.found[:NUM_BINS].tolist(),
        "false": curve.false[:NUM_BINS].tolist(),
    }


def _sizes(counts: np.ndarray) -> list[dict[str, Any]]:
    return [{**asdict(one), "found_share": one.found / one.defects} for one in scores_by_size(counts)]


def _areas(outcome: Outcome, class_names: Sequence[str]) -> dict[str, Any]:
    octaves, table = area_table(outcome.counts)
    return {
        "octaves": plain(octaves),
        "pairs": plain(table),
        "per_class": {
            name: dict(zip(("hit", "predicted", "true"), (int(n) for n in sums), strict=True))
            for name, sums in zip(class_names, outcome.counts.sum(axis=0), strict=True)
        },
    }


def _gates(gates: Mapping[str, Decision], statistics: EvaluationStatistics) -> dict[str, Any]:
    return {
        result.gate: {
            "mean_dice": plain(result.scores.mean_dice),
            "interval": plain(result.mean_dice_interval),
            "gain_interval": plain(result.gain_interval),
            "mean_dice_positive": plain(result.scores.mean_dice_positive),
        }
        for result in (gate_table(gates, statistics) if gates else [])
    }
