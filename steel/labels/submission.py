"""Kaggle's submission file: written as predictions arrive, in the shape of a sample if one is given, and checked.

Its two forms are those of `steel.labels.kaggle_csv`. Classes count from 1.
"""

import csv
import io
import os
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from steel.errors import InputError
from steel.labels.kaggle_csv import PAIR_FORMAT, ROW_FORMAT, read_kaggle_csv
from steel.labels.rle import encode_rle
from steel.storage import open_write
from steel.validation_errors import Issue, raise_issues

SUBMISSION_FORMATS = {"ImageId_ClassId": PAIR_FORMAT, "ImageId,ClassId": ROW_FORMAT}
"""What `format` may be, and the columns that it means."""


class Row(NamedTuple):
    """One class of one image."""

    image_id: str
    class_id: int
    """From 1; 0, or nothing in the file, where only the image counts."""
    rle: str
    """Run-length text, "" for none."""


@dataclass(frozen=True)
class Submission:
    """A submission file as it stands."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    is_pairs: bool
    """Image and class share a column."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Each image once, in the order of its first row."""
        return tuple(dict.fromkeys(row.image_id for row in self.rows))


@dataclass(frozen=True)
class SubmissionSummary:
    """What was written or found."""

    images: int
    rows: int
    masks: int
    """Rows that are not empty."""
    unknown: tuple[str, ...] = ()
    """Predicted images that the sample does not list; they were left out."""


def read_submission(path: str | Path) -> Submission:
    """Read a submission, or a sample of one.

    Raises:
        InputError: no such file, neither of the two forms, or malformed rows.
    """
    found = read_kaggle_csv(os.fspath(path))
    raise_issues(found.issues, f"in {path}")
    rows = tuple(Row(row.image_id, row.class_id or 0, row.rle) for row in found.rows)
    return Submission(found.columns, rows, found.is_pairs)


def check_coverage(sample: Submission, image_ids: Collection[str], where: str | Path) -> tuple[str, ...]:
    """Compare the images that can be answered with those that a sample lists; worth doing before predicting.

    Args:
        sample: as read from `where`.
        image_ids: the images at hand.
        where: the sample's name, for the message.

    Returns:
        The images at hand that the sample does not list, sorted.

    Raises:
        InputError: images that the sample lists are missing, or it lists none.
    """
    if not sample.rows:
        raise InputError(f"{where}: a header without rows; a sample lists the images to predict")
    missing = [Issue("images of the sample that were not predicted", i) for i in sample.image_ids if i not in image_ids]
    raise_issues(missing, f"listed in {where}; predict the folder that holds them")
    return tuple(sorted(set(image_ids) - set(sample.image_ids)))


def check_classes(sample: Submission, num_classes: int, where: str | Path) -> bool:
    """Refuse a sample that has neither a row for every class of every image nor one for each image alone.

    Args:
        sample: as read from `where`.
        num_classes: that are predicted.
        where: the sample's name, for the message.

    Returns:
        Whether it is the former.

    Raises:
        InputError: it is neither; worth knowing before predicting.
    """
    image_ids = sample.image_ids
    pairs = {(row.image_id, row.class_id) for row in sample.rows}
    wanted = {(image_id, k) for image_id in image_ids for k in range(1, num_classes + 1)}
    if pairs == wanted and len(sample.rows) == len(pairs):
        return True
    if sample.is_pairs or len(sample.rows) != len(image_ids):
        raise InputError(
            f"{where}: it does not list classes 1 to {num_classes} of every image once each, "
            "which is what this model predicts; give the sample of the same task"
        )
    return False


def write_submission(
    path: str | Path, predictions: Iterable[tuple[str, np.ndarray]], *, format: str = "ImageId_ClassId"
) -> SubmissionSummary:
    """Write a submission; nothing appears under `path` before it is complete.

    Args:
        path: file or URL to write.
        predictions: `(image_id, masks)` of different images, masks (C, H, W) bool or uint8, encoded as they arrive.
        format: one of `SUBMISSION_FORMATS`: a row for every class of every image, in the order of `predictions`.

    Raises:
        InputError: an unknown format.
    """
    return _write_rows(
        path, format, ((image_id, [encode_rle(mask) for mask in masks]) for image_id, masks in predictions)
    )


def write_encoded(
    path: str | Path,
    rles: Mapping[str, Sequence[str]],
    num_classes: int,
    *,
    format: str = "ImageId_ClassId",
    template: str | Path | None = None,
    unreadable: Collection[str] = (),
    staging: str | None = None,
) -> SubmissionSummary:
    """As `write_submission`, of run-length texts, in the shape of a sample if there is one.

    Args:
        path: file or URL to write.
        rles: image id -> the run-length text of each class; asked for one image at a time.
        num_classes: texts of each image.
        format: one of `SUBMISSION_FORMATS`, where there is no template.
        template: a sample submission whose columns, rows and order to take instead. One in the second format with a
            single row per image stands for its images only: each then gets a row for every class found in it, or one
            empty row.
        unreadable: images without an entry; their rows in a sample are empty.
        staging: as for `steel.storage.open_write`.

    Raises:
        InputError: an unreadable sample, or one that asks for other images or classes than were predicted.
    """
    if template is None:
        return _write_rows(path, format, rles.items(), staging)
    sample = read_submission(template)
    nothing: dict[str, Sequence[str]] = dict.fromkeys(unreadable, [""] * num_classes)
    found = ChainMap(nothing, cast(MutableMapping[str, Sequence[str]], rles))  # which is only read
    unknown = check_coverage(sample, found, template)
    return _write(path, sample.columns, _rows_of(sample, found, num_classes, template), unknown, staging)


def _write_rows(
    path: str | Path, format: str, rles: Iterable[tuple[str, Sequence[str]]], staging: str | None = None
) -> SubmissionSummary:
    if format not in SUBMISSION_FORMATS:
        raise InputError(
            f"unknown format of submission {format!r}; choose from {', '.join(map(repr, SUBMISSION_FORMATS))}"
        )
    rows = (row for image_id, texts in rles for row in _every_class(image_id, texts))
    return _write(path, SUBMISSION_FORMATS[format], rows, staging=staging)


def _every_class(image_id: str, rles: Sequence[str]) -> Iterator[Row]:
    for k, rle in enumerate(rles):
        yield Row(image_id, k + 1, rle)


def _rows_of(
    sample: Submission, found: Mapping[str, Sequence[str]], num_classes: int, where: str | Path
) -> Iterable[Row]:
    """The predictions in the rows of the sample."""
    if check_classes(sample, num_classes, where):
        return (Row(row.image_id, row.class_id, found[row.image_id][row.class_id - 1]) for row in sample.rows)
    return (row for image_id in sample.image_ids for row in _found_classes(image_id, found[image_id]))


def _found_classes(image_id: str, rles: Sequence[str]) -> Iterable[Row]:
    return [row for row in _every_class(image_id, rles) if row.rle] or [Row(image_id, 1, "")]


def _write(
    path: str | Path,
    columns: Sequence[str],
    rows: Iterable[Row],
    unknown: tuple[str, ...] = (),
    staging: str | None = None,
) -> SubmissionSummary:
    num_rows = num_masks = 0
    images = set()
    with open_write(path, staging=staging) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row, column) for column in columns])
            images.add(row.image_id)
            num_rows += 1
            num_masks += bool(row.rle)
        text.detach()  # flushes, and leaves the file open for `open_write` to finish
    return SubmissionSummary(len(images), num_rows, num_masks, unknown)


def _cell(row: Row, column: str) -> Any:
    return {
        "ImageId_ClassId": f"{row.image_id}_{row.class_id}",
        "ImageId": row.image_id,
        "ClassId": row.class_id,
        "EncodedPixels": row.rle,
    }[column]
