"""All files of a cross-validation: those of an evaluation, its page with the folds beside each other.

What members have left of their folds are counts, and no probability of any pixel. They tell which images the page
shows, and which may have a wrong label: a small part, which is predicted once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steel.metrics.label_doubts import may_be_doubted, rank_doubts
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.details import build_details
from steel.reports.evaluation import build_nested_metrics
from steel.reports.evaluation_report import write_files
from steel.reports.gallery import LABELS, Kept, choose, ranking_of
from steel.shards.reader import ShardReader
from steel.thresholds.nested import Nested
from steel.thresholds.tuning import Tuning


def write_crossval(
    out: Path,
    statistics: EvaluationStatistics,
    nested: Nested,
    found: Tuning,
    reader: ShardReader,
    kept: Kept,
    *,
    role: str,
    tta: Sequence[str],
    provenance: Mapping[str, Any],
    recipe: Mapping[str, str],
) -> dict[str, Any]:
    """Write what a cross-validation found into the folder `out`.

    Args:
        out: an existing folder.
        statistics: out-of-fold, of all images.
        nested: each fold answered by the decision found on the others.
        found: the decision that is shipped, found on all folds, and the best of every gate.
        reader: of the shards.
        kept: for the gallery: what `images_to_see` names, by the member of its fold.
        role: what the folds were to the members that judge them; see `build_nested_metrics`.
        tta: the flipped views behind the statistics.
        provenance: plain values for the record.
        recipe: see `write_evaluation`.

    Returns:
        What stands in `metrics.json`.
    """
    class_names = reader.manifest.class_names
    folds = np.asarray(reader.index.fold)[statistics.rows]
    doubts = rank_doubts(kept.regions, statistics.histograms, nested.outcome.counts)
    metrics = build_nested_metrics(
        statistics, nested, found.decision, folds, role=role, class_names=class_names, tta=tta
    )
    metrics |= build_details(
        statistics,
        found.decision,
        class_names=class_names,
        verdict=metrics["verdict"],
        gates=found.by_gate,
        doubts=doubts,
        outcome=nested.outcome,
    )
    metrics |= {"provenance": dict(provenance), "recipe": dict(recipe)}
    write_files(out, metrics, statistics, nested.outcome, reader, kept, doubts)
    return metrics


@dataclass(frozen=True, eq=False)
class ToSee:
    """Images of which the pixels are needed."""

    kinds: Mapping[str, Sequence[int]]
    """Rows of the gallery's kinds, but for labels in doubt."""
    in_doubt: frozenset[int]
    """Rows whose labels may be in doubt."""

    @property
    def rows(self) -> frozenset[int]:
        """Of all."""
        return self.in_doubt.union(*self.kinds.values())


def images_to_see(statistics: EvaluationStatistics, nested: Nested, folds: np.ndarray) -> ToSee:
    """The images whose pixels the page needs, told from the statistics of all.

    Args:
        statistics: out-of-fold, of N images.
        nested: how each fold is answered.
        folds: (N,) of the images.
    """
    kinds = choose(
        [ranking_of(statistics.select(folds == fold), decision) for fold, decision in nested.decisions.items()]
    )
    doubtful = may_be_doubted(statistics.histograms, statistics.label_probs, nested.outcome.counts)
    return ToSee(
        {kind: rows for kind, rows in kinds.items() if kind != LABELS}, frozenset(statistics.rows[doubtful].tolist())
    )
