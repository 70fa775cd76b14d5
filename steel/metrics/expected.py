"""What a checkpoint remembers of the images that its decision was tuned on, for whoever watches it at work."""

from typing import Any

from steel.decision import Decision
from steel.metrics.counts import PREDICTED
from steel.metrics.scores import decide
from steel.metrics.statistics import EvaluationStatistics


def expected_figures(statistics: EvaluationStatistics, decision: Decision) -> dict[str, Any] | None:
    """Plain values: the number of `images`, the `defective_share` of those with a mask of any class, and the
    `mean_probabilities` of the classification head, of any defect and of each class, 0 to 1; None of no images."""
    if not len(statistics):
        return None
    found = decide(statistics, decision).counts[..., PREDICTED] > 0
    return {
        "images": len(statistics),
        "defective_share": round(float(found.any(axis=1).mean()), 6),
        "mean_probabilities": [round(float(mean) / 255, 6) for mean in statistics.label_probs.mean(axis=0)],
    }
