"""All files of a cross-validation: `metrics.json`, `report.html`, `per_image.csv`.

The page is an evaluation's, with the folds beside each other, and without pictures: what members have left of their
folds are counts, and no probability of any pixel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steel import storage
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.details import build_details
from steel.reports.evaluation import build_nested_metrics, write_metrics
from steel.reports.evaluation_page import evaluation_page
from steel.reports.per_image import image_rows, write_image_rows
from steel.shards.reader import ShardReader
from steel.thresholds.nested import Nested
from steel.thresholds.tuning import Tuning


def write_crossval(
    out: Path,
    statistics: EvaluationStatistics,
    nested: Nested,
    found: Tuning,
    reader: ShardReader,
    *,
    tta: Sequence[str],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write what a cross-validation found into the folder `out`.

    Args:
        out: an existing folder.
        statistics: out-of-fold, of all images.
        nested: each fold answered by the decision found on the others.
        found: the decision that is shipped, found on all folds, and the best of every gate.
        reader: of the shards.
        tta: the flipped views behind the statistics.
        provenance: plain values for the record.

    Returns:
        What stands in `metrics.json`.
    """
    class_names, index = reader.manifest.class_names, reader.index
    folds = np.asarray(index.fold)[statistics.rows]
    metrics = build_nested_metrics(statistics, nested, found.decision, folds, class_names=class_names, tta=tta)
    metrics |= build_details(
        statistics,
        found.decision,
        class_names=class_names,
        verdict=metrics["verdict"],
        gates=found.by_gate,
        doubts=None,
        outcome=nested.outcome,
    )
    metrics["provenance"] = dict(provenance)
    rows = image_rows(statistics, nested.outcome, index, class_names)
    write_metrics(out / "metrics.json", metrics)
    write_image_rows(out / "per_image.csv", rows)
    storage.write_text(out / "report.html", evaluation_page(metrics, rows, [], [], {}))
    return metrics
