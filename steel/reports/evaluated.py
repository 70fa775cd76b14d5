"""What an evaluation, a run or a cross-validation has left behind: its scores, and what became of every image."""

import csv
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steel.errors import InputError
from steel.metrics.table import METRICS
from steel.plain import from_plain, parse_json
from steel.reports.describe import flat_scalars

METRICS_FILES = ("metrics.json", "validation.json")
"""Of an evaluation or a cross-validation; of a run."""
REPORT_NAME = "report.html"
"""The page of an evaluation, beside its scores."""
_CONFIG_NAME = "config.json"
"""The configuration of a run, beside its scores."""
_MOST_PIXELS = 1 << 40
"""More than any image has."""
_PerClass = dict[str, float | None]
_NEEDED: Mapping[str, Any] = {
    "images": int,
    "mean_dice": float,
    "dice_per_class": _PerClass,
    "verdict": dict[str, Any],
    "intervals": dict[str, Any],
}
_OF_CLASSES = ("dice_positive_per_class", "true_images_per_class")
"""Of what may be missing in older files, what is shown class by class."""


@dataclass(frozen=True, eq=False)
class ImageTable:
    """`per_image.csv`: n images, C classes."""

    image_ids: list[str]
    results: list[str]
    overlays: list[str]
    """Paths of pictures; empty where there is none."""
    dice: np.ndarray
    """(n, C) float64."""
    counts: np.ndarray
    """(n, C, 3) int64 `(intersection, predicted, true)` pixels."""
    groups: np.ndarray | None = None
    """As in `EvaluationStatistics`; None in a table of before they were written down."""


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What is compared."""

    name: str
    """Short, and no other's of the same comparison."""
    path: str
    """Of the file with its scores."""
    metrics: dict[str, Any]
    table: ImageTable | None
    """None where there is no per_image.csv."""
    settings: dict[str, str]
    """How it came about."""

    @property
    def class_names(self) -> list[str]:
        """Of all its classes."""
        return list(self.metrics["dice_per_class"])


def read_evaluated(paths: Sequence[str]) -> list[Evaluated]:
    """Read what is to be compared.

    Args:
        paths: of run folders, report folders, their `report.html`, or `metrics.json` files.

    Raises:
        InputError: nothing that could be compared is there, or it is damaged.
    """
    files = [_metrics_file(Path(path)) for path in paths]
    found = [_read(name, file) for name, file in zip(short_names(paths), files, strict=True)]
    for name in METRICS:
        _check_alike(name, [source for source in found if source.metrics.get(name) is not None])
    return found


def files_of(paths: Sequence[str]) -> list[str]:
    """What a comparison of these must not replace: their scores, and what lies beside them under fixed names.

    Args:
        paths: as `read_evaluated` has them.

    Raises:
        InputError: nothing that could be compared is there.
    """
    files = [_metrics_file(Path(path)) for path in paths]
    return [str(place) for file in files for place in (file, file.with_name(REPORT_NAME), file.with_name(_CONFIG_NAME))]


def _check_alike(name: str, sources: Sequence[Evaluated]) -> None:
    """A metric is one number in all of them, or has a value for each class in all."""
    per_class = [source for source in sources if isinstance(source.metrics[name], Mapping)]
    if per_class and len(per_class) < len(sources):
        other = next(source for source in sources if source not in per_class)
        raise InputError(f"{per_class[0].path}: {name} has a value for each class, but is one number in {other.path}")


def _metrics_file(path: Path) -> Path:
    if path.is_file() and path.suffix == ".json":
        return path
    if path.is_file() and path.name != REPORT_NAME:
        raise InputError(
            f"{path}: no scores; give the folder of a finished run, a folder that train.evaluate wrote or its "
            f"{REPORT_NAME}, or a metrics.json"
        )
    folder = path.parent if path.is_file() else path
    found = next((folder / name for name in METRICS_FILES if (folder / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{path}: no {' and no '.join(METRICS_FILES)} here; give a finished run, a folder that "
            "train.evaluate wrote, or a metrics.json"
        )
    return found


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of the paths that differ, as many as tell them apart; a number behind each path that is given
    more than once."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    tails = list(dict.fromkeys(parts))
    which = [tails.index(part) for part in parts]
    while len(tails) > 1 and len({tail[-1] for tail in tails}) == 1 and min(map(len, tails)) > 2:
        tails = [tail[:-1] for tail in tails]
    depth = next(n for n in itertools.count(1) if len({tail[-n:] for tail in tails}) == len(tails))
    names = ["/".join(tail[-depth:]) for tail in tails]
    return [
        names[i] if which.count(i) == 1 else f"{names[i]} ({which[: place + 1].count(i)})"
        for place, i in enumerate(which)
    ]


def _read(name: str, path: Path) -> Evaluated:
    metrics = _parse(path)
    try:
        _check_metrics(metrics)
    except InputError as error:
        raise InputError(f"{path}: not the scores of an evaluation ({error})") from error
    table = path.parent / "per_image.csv"
    rows = _read_table(table, list(metrics["dice_per_class"]), path.name) if table.is_file() else None
    if rows is not None and len(rows.image_ids) != metrics["images"]:
        raise InputError(f"{table}: {len(rows.image_ids)} images, but {path.name} is of {metrics['images']}")
    return Evaluated(name, str(path), dict(metrics), rows, _settings(path, metrics))


def _parse(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _check_metrics(metrics: Any) -> None:
    """Raises InputError unless everything that a comparison shows is there and of its type."""
    for name, kind in _NEEDED.items():
        if not isinstance(metrics, Mapping) or name not in metrics:
            raise InputError(f"no {name}")
        from_plain(kind, metrics[name], name)
    for name, metric in METRICS.items():
        if metric.heading:
            from_plain(float | _PerClass | None, metrics.get(name), name)
    for name in _OF_CLASSES:
        from_plain(_PerClass | None, metrics.get(name), name)
    from_plain(str | None, metrics.get("role"), "role")
    from_plain(tuple[float, float] | None, metrics["intervals"].get("mean_dice"), "intervals.mean_dice")


def _settings(path: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Of a report its provenance; of a run its configuration."""
    provenance = metrics.get("provenance")
    if isinstance(provenance, Mapping) and provenance:
        return {key: str(value) for key, value in flat_scalars(provenance)}
    config = path.with_name(_CONFIG_NAME)
    if not config.is_file():
        return {}
    values = _parse(config)
    return dict(_flat(values)) if isinstance(values, Mapping) else {}


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(values, list):
        values = {str(number): value for number, value in enumerate(values)}
    if not isinstance(values, Mapping):
        return [(prefix.removeprefix("config."), str(values))]
    return [pair for key, value in values.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def _read_table(path: Path, class_names: Sequence[str], beside: str) -> ImageTable:
    """The table of the classes that the file `beside` it names.

    Raises:
        InputError: a column that is missing, or a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return ImageTable(
            image_ids=[row["image_id"] for row in rows],
            results=[row["result"] for row in rows],
            overlays=[str(path.parent / row["overlay"]) if row["overlay"] else "" for row in rows],
            dice=_numbers(rows, [f"dice {name}" for name in class_names]).astype(np.float64),
            counts=_counts(rows, class_names),
            groups=_numbers(rows, ["group"])[:, 0] if rows and "group" in rows[0] else None,
        )
    except KeyError as error:
        raise InputError(f"{path}: has no column {error}, which {beside} beside it asks for; evaluate again") from error
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not the table of an evaluation ({error}); evaluate again") from error


def _counts(rows: Sequence[Mapping[str, str]], class_names: Sequence[str]) -> np.ndarray:
    """(n, C, 3) int64, as `ImageTable.counts`."""
    right, predicted, true = (
        _numbers(rows, [f"{what} pixels {name}" for name in class_names]) for what in ("right", "predicted", "true")
    )
    values = np.stack([right, predicted, true], axis=-1)
    if ((values < 0) | (values > _MOST_PIXELS)).any() or (right > np.minimum(predicted, true)).any():
        raise ValueError("pixels that no image has")
    return values.astype(np.int64)


def _numbers(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> np.ndarray:
    """(n, columns) finite float64."""
    values = np.array([[float(row[column]) for column in columns] for row in rows]).reshape(len(rows), len(columns))
    if not np.isfinite(values).all():
        raise ValueError("a number that is none")
    return values
