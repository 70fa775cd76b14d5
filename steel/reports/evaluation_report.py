"""All files of an evaluation: `metrics.json`, `report.html`, `per_image.csv`, `label_doubts.csv`, `overlays/`."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steel import storage
from steel.decision import Decision
from steel.metrics.label_doubts import Doubt, rank_doubts
from steel.metrics.scores import Outcome, decide
from steel.metrics.statistics import EvaluationStatistics
from steel.reports.details import build_details
from steel.reports.earlier import has_keys
from steel.reports.evaluation import build_metrics, write_metrics
from steel.reports.evaluation_page import evaluation_page
from steel.reports.gallery import KINDS, LABELS, Kept
from steel.reports.per_image import REGION_SEPARATOR, doubt_rows, image_rows, to_csv, write_image_rows
from steel.reports.shots import Shot, draw_shots
from steel.shards.reader import ShardReader

REPORT_FILES = ("metrics.json", "report.html", "per_image.csv", "label_doubts.csv", "gates.md", "contact_sheet.png")
"""What an evaluation writes, beside overlays, and the checkpoint of `--tune-thresholds`."""

_OVERLAY = re.compile(r"[0-9]{6,}\.jpg")

DOUBT_COLUMNS = (
    "rank", "image_id", "image_doubt", "claim", "class", "region_doubt", "left", "top", "width", "height", "pixels",
    "confidence", "head_agreement",
)  # fmt: skip


def write_evaluation(
    out: Path,
    statistics: EvaluationStatistics,
    decision: Decision,
    reader: ShardReader,
    kept: Kept,
    *,
    folds: Sequence[int],
    role: str,
    tta: Sequence[str],
    cross_fitted: Outcome | None = None,
    gates: Mapping[str, Decision] | None = None,
    speed: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    recipe: Mapping[str, str] | None = None,
    ensemble: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write what an evaluation found into the folder `out`.

    Args:
        out: an existing folder.
        statistics: of the judged images, counted under `decision`.
        decision: what answers them.
        reader: of their shards.
        kept: for the gallery.
        folds: the judged folds.
        role: what they were to the checkpoint; see `build_metrics`.
        tta: the flipped views behind the statistics.
        cross_fitted: see `build_metrics`.
        gates: other decisions to hold beside each other, by their gates.
        speed: plain values for the record.
        provenance: likewise.
        recipe: sentences that say why options of the training are as they are, by their names.
        ensemble: what `member_metrics` returned, of an ensemble whose members were judged, too.

    Returns:
        What stands in `metrics.json`.
    """
    class_names = reader.manifest.class_names
    outcome = decide(statistics, decision)
    doubts = rank_doubts(kept.regions, statistics.histograms, outcome.counts)
    metrics = build_metrics(
        statistics, decision, folds=folds, role=role, class_names=class_names, tta=tta, cross_fitted=cross_fitted
    )
    metrics |= build_details(
        statistics,
        decision,
        class_names=class_names,
        verdict=metrics["verdict"],
        gates=gates or {},
        doubts=doubts,
    )
    metrics |= {} if ensemble is None else {"ensemble": dict(ensemble)}
    metrics |= {"speed": dict(speed or {}), "provenance": dict(provenance or {}), "recipe": dict(recipe or {})}
    write_files(out, metrics, statistics, outcome, reader, kept, doubts)
    return metrics


def write_files(
    out: Path,
    metrics: Mapping[str, Any],
    statistics: EvaluationStatistics,
    outcome: Outcome,
    reader: ShardReader,
    kept: Kept,
    doubts: Sequence[Doubt],
) -> None:
    """Write numbers, tables, pictures and page.

    Args:
        out: an existing folder.
        metrics: all of `metrics.json`.
        statistics: of the judged images.
        outcome: the answers to them.
        reader: of their shards.
        kept: for the gallery.
        doubts: of their labels, the most doubtful image first.
    """
    class_names, index = reader.manifest.class_names, reader.index
    kinds = _kinds(kept, doubts)
    shots = draw_shots(reader, kept.layers, [kinds[kind] for kind in KINDS])
    overlays = write_overlays(out, shots)
    regions = {shot.row: REGION_SEPARATOR.join(tag.text for tag in shot.tags) for shot in shots}
    rows = image_rows(statistics, outcome, index, class_names, doubts, overlays, regions)
    lines = doubt_rows(doubts, index, class_names)
    write_metrics(out / "metrics.json", metrics)
    write_image_rows(out / "per_image.csv", rows)
    storage.write_text(out / "label_doubts.csv", to_csv(lines, DOUBT_COLUMNS))
    storage.write_text(out / "report.html", evaluation_page(metrics, rows, lines, shots, kinds))


def others_in(out: Path) -> list[str]:
    """What lies in `out` where that is no evaluation's folder, hidden files left out: all but the pictures that an
    interrupted one has left."""
    if has_keys(out / "metrics.json", {"verdict", "role", "images"}):
        return []
    names = sorted(path.name for path in out.glob("*") if not path.name.startswith("."))
    pictures = [path.name for path in (out / "overlays").glob("*") if not path.name.startswith(".")]
    return [name for name in names if name != "overlays" or not all(map(_OVERLAY.fullmatch, pictures))]


def remove_evaluation(out: Path) -> None:
    """Remove, by their names, the files of an earlier evaluation from `out`; all else stays, checkpoints too."""
    for path in (out / "overlays").glob("*.jpg"):
        if _OVERLAY.fullmatch(path.name):
            storage.remove(path)
    for name in reversed(REPORT_FILES):  # metrics.json last: until then `others_in` knows the folder by it
        storage.remove(out / name)


def write_overlays(out: Path, shots: Sequence[Shot]) -> dict[int, str]:
    """Write each shot's overlay, the truth above the prediction; returns their paths in `out` by row."""
    storage.make_folder(out / "overlays")
    paths = {}
    for shot in shots:
        paths[shot.row] = f"overlays/{shot.row:06d}.jpg"
        storage.write_bytes(os.fspath(out / paths[shot.row]), shot.overlay)
    return paths


def _kinds(kept: Kept, doubts: Sequence[Doubt]) -> dict[str, list[int]]:
    """The gallery's kinds with their rows; labels in doubt by the doubt that is left after weighing."""
    kinds = {kind: [row for row in kept.rows.get(kind, ()) if row in kept.layers] for kind in KINDS}
    kinds[LABELS] = [doubt.row for doubt in doubts if doubt.row in kinds[LABELS]]
    return kinds
