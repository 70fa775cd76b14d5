"""Masks as run-length text in a CSV file: Kaggle's two forms, told apart by their header."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steel.data.class_table import MAX_CLASSES, ClassTable, number_classes
from steel.data.csv_file import read_csv
from steel.data.problems import Problem, ProblemsError, raise_problems
from steel.data.rle import decode_rle
from steel.errors import InputError

_ROW_FORM = ("ImageId", "ClassId", "EncodedPixels")
_PAIR_FORM = ("ImageId_ClassId", "EncodedPixels")


class CsvRow(NamedTuple):
    """One row of the file: one class of one image."""

    line: int
    image_id: str
    class_id: str
    rle: str
    """Blank: this image has no defect of this class."""


@dataclass(frozen=True)
class RunLengthMasks:
    """The masks of a CSV file, as text until they are asked for."""

    num_classes: int
    rles: dict[str, dict[int, str]]
    """Image id -> class (from 1) -> run-length text, defects only."""
    ignore: bool = False

    def class_ids(self, image_id: str) -> frozenset[int]:
        return frozenset(self.rles.get(image_id, ()))

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """The masks (height, width) of uint8 0/1 of the classes that the image has.

        Raises:
            ProblemsError: every mask of this image that is malformed or does not fit its size.
        """
        planes, problems = {}, []
        for class_id, rle in self.rles.get(image_id, {}).items():
            try:
                planes[class_id] = decode_rle(rle, height, width)
            except InputError as error:
                problems.append(Problem("masks that do not fit their image", f"{image_id} class {class_id}: {error}"))
        if problems:
            raise ProblemsError(problems)
        return planes

    def subset(self, image_ids: Collection[str]) -> "RunLengthMasks":
        return RunLengthMasks(self.num_classes, {i: self.rles[i] for i in image_ids if i in self.rles})


def load_csv(url: str, image_ids: Collection[str], classes: ClassTable | None) -> tuple[ClassTable, RunLengthMasks]:
    """Read and check a CSV file of masks against the images that exist.

    Args:
        url: Path or URL of the file.
        image_ids: Images of the folder. Those without a row are clean.
        classes: The classes and their ids; 1 to the largest id in the file when None.

    Raises:
        ProblemsError: unknown class ids, ids without an image, duplicate and malformed rows, all at once.
        InputError: no such file, or not one of the two forms.
    """
    rows, problems = read_rows(url)
    if classes is None:
        found = {int(row.class_id) for row in rows if row.class_id.isdecimal()}
        if max(found, default=0) > MAX_CLASSES:
            raise InputError(
                f"{url}: class ids go up to {max(found)}, but at most {MAX_CLASSES} classes are possible; "
                f"say what each id means (--class-names {max(found)}=...)"
            )
        classes = number_classes(found - {0})
    class_of = {value: k for k, value in enumerate(classes.values, 1)}
    rles: dict[str, dict[int, str]] = {}
    seen: dict[tuple[str, int], int] = {}
    unmatched: dict[str, None] = {}
    for row in rows:
        class_id = class_of.get(int(row.class_id)) if row.class_id.isdecimal() else None
        if class_id is None:
            problems.append(Problem("rows with an unknown class id", f"{row.class_id!r} for {row.image_id}"))
            continue
        if row.image_id not in image_ids:
            unmatched[row.image_id] = None
        first = seen.setdefault((row.image_id, class_id), row.line)
        if first != row.line:
            where = f"{row.image_id} class {row.class_id} (lines {first} and {row.line})"
            problems.append(Problem("duplicate rows", where))
        elif row.rle:
            rles.setdefault(row.image_id, {})[class_id] = row.rle
    problems += [Problem("ids without an image", image_id) for image_id in unmatched]
    hint = f"in {url}"
    if len(unmatched) == len({row.image_id for row in rows}):
        hint += "; no id matches an image: is this the right image folder?"
    raise_problems(problems, hint)
    return classes, RunLengthMasks(len(classes), rles)


def read_rows(url: str) -> tuple[list[CsvRow], list[Problem]]:
    """All rows of the file, and those that are none.

    Raises:
        InputError: no such file, or not one of the two forms.
    """
    header, lines = read_csv(url)
    if header not in (_ROW_FORM, _PAIR_FORM):
        forms = " or ".join("`" + ",".join(form) + "`" for form in (_ROW_FORM, _PAIR_FORM))
        raise InputError(f"{url}: the header is `{','.join(header)[:80]}`, expected {forms}")
    rows, problems = [], []
    for line, fields in lines:
        name, *middle, rle = fields
        if header == _PAIR_FORM:
            name, *middle = name.rpartition("_")[::2]
        if len(middle) != 1 or len(fields) != len(header) or not name:
            problems.append(Problem("malformed rows", f"line {line} ({','.join(fields)[:40]})"))
            continue
        rows.append(CsvRow(line, name, middle[0].strip(), rle.strip()))
    return rows, problems
