"""`per_image.csv` and `label_doubts.csv`: every row behind the report, the worst image first."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steel import storage
from steel.labels.classes import ANY
from steel.metrics.counts import INTERSECTION, PREDICTED, TRUE, dice
from steel.metrics.label_doubts import Doubt
from steel.metrics.scores import Outcome
from steel.metrics.statistics import EvaluationStatistics
from steel.shards.index import Images

FALSE_ALARM, MISS, FOUND, CLEAN = "false alarm", "miss", "found", "clean"
"""What became of a strip: clean but stopped, defective but passed, defective and stopped, clean and passed."""

REGION_SEPARATOR = "; "
"""Between the regions of an image."""


@dataclass(frozen=True)
class ImageRow:
    """One image's line."""

    row: int
    """In the index."""
    result: str
    true: tuple[int, ...]
    """Classes, from 0."""
    predicted: tuple[int, ...]
    values: dict[str, Any]
    """The columns, in their order."""


def image_rows(
    statistics: EvaluationStatistics,
    outcome: Outcome,
    index: Images,
    class_names: Sequence[str],
    doubts: Sequence[Doubt] = (),
    overlays: Mapping[int, str] | None = None,
    regions: Mapping[int, str] | None = None,
) -> list[ImageRow]:
    """The lines of all images: lowest mean Dice first, among equals the most wrong pixels first.

    Args:
        statistics: of the judged images.
        outcome: the answers to them.
        index: of the shards.
        class_names: C names.
        doubts: of labels.
        overlays: row to the path of its picture, relative to the table, where there is one.
        regions: row to what its picture says beside predicted regions, likewise.
    """
    counts = outcome.counts
    scores, probs = dice(counts), statistics.label_probs / 255
    doubt_of = {doubt.row: doubt.doubt for doubt in doubts}
    wrong = (counts[..., PREDICTED] + counts[..., TRUE] - 2 * counts[..., INTERSECTION]).sum(axis=1)
    lines = []
    for i in np.lexsort((statistics.rows, -wrong, scores.mean(axis=1))).tolist():
        row = int(statistics.rows[i])
        true, said = (tuple(np.flatnonzero(counts[i, :, which]).tolist()) for which in (TRUE, PREDICTED))
        result = result_of(bool(true), bool(said))
        values: dict[str, Any] = {
            "image_id": index.image_id(row),
            "result": result,
            "dice": round(float(scores[i].mean()), 6),
            "wrong_pixels": int(wrong[i]),
            "true": " + ".join(class_names[k] for k in true),
            "predicted": " + ".join(class_names[k] for k in said),
            f"p {ANY}": round(float(probs[i, 0]), 4),
            "label_doubt": round(doubt_of.get(row, 0.0), 4),
            "overlay": (overlays or {}).get(row, ""),
            "regions": (regions or {}).get(row, ""),
            "fold": int(index.fold[row]),
            "group": int(index.group[row]),
            "height": int(index.original_height[row]),
            "width": int(index.original_width[row]),
        }
        for k, name in enumerate(class_names):
            values[f"p {name}"] = round(float(probs[i, 1 + k]), 4)
            values[f"dice {name}"] = round(float(scores[i, k]), 6)
            for what, which in (("true", TRUE), ("predicted", PREDICTED), ("right", INTERSECTION)):
                values[f"{what} pixels {name}"] = int(counts[i, k, which])
        lines.append(ImageRow(row, result, true, said, values))
    return lines


def result_of(is_defective: bool, is_stopped: bool) -> str:
    """What became of a strip."""
    return (FOUND if is_stopped else MISS) if is_defective else (FALSE_ALARM if is_stopped else CLEAN)


def doubt_rows(doubts: Sequence[Doubt], index: Images, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of `label_doubts.csv`, a region each, those of the most doubtful image first."""
    return [
        {
            "rank": rank,
            "image_id": index.image_id(doubt.row),
            "image_doubt": round(doubt.doubt, 4),
            "claim": region.kind,
            "class": class_names[region.class_index],
            "region_doubt": round(strength, 4),
            "left": region.left,
            "top": region.top,
            "width": region.width,
            "height": region.height,
            "pixels": region.area,
            "confidence": round(region.confidence, 4),
            "head_agreement": round(region.agreement, 4),
        }
        for rank, doubt in enumerate(doubts, start=1)
        for region, strength in doubt.regions
    ]


def write_image_rows(path: str | os.PathLike[str], lines: Sequence[ImageRow]) -> None:
    """Write `per_image.csv`."""
    storage.write_text(path, to_csv([line.values for line in lines], list(lines[0].values)))


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table with a header, also when it has no row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
