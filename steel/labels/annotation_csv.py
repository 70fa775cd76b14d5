"""Masks as run-length text in one of Kaggle's CSV files, matched with the images that exist."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from steel.errors import InputError
from steel.labels.classes import MAX_CLASSES, ClassTable, number_classes
from steel.labels.kaggle_csv import read_kaggle_csv
from steel.labels.rle import decode_rle
from steel.validation_errors import Issue, ValidationErrors, raise_issues


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
            ValidationErrors: every mask of this image that is malformed or does not fit its size.
        """
        planes, issues = {}, []
        for class_id, rle in self.rles.get(image_id, {}).items():
            try:
                planes[class_id] = decode_rle(rle, height, width)
            except InputError as error:
                issues.append(Issue("masks that do not fit their image", f"{image_id} class {class_id}: {error}"))
        if issues:
            raise ValidationErrors(issues)
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
        ValidationErrors: unknown class ids, ids without an image, duplicate and malformed rows, all at once.
        InputError: no such file, or not one of the two forms.
    """
    found = read_kaggle_csv(url)
    issues = list(found.issues)
    if classes is None:
        ids = {row.class_id for row in found.rows if row.class_id}
        if max(ids, default=0) > MAX_CLASSES:
            raise InputError(
                f"{url}: class ids go up to {max(ids)}, but at most {MAX_CLASSES} classes are possible; "
                f"say what each id means (--class-names {max(ids)}=...)"
            )
        if not ids:
            raise_issues(issues, f"in {url}")
            raise InputError(f"{url}: no classes: nothing is marked as defective; give the class names")
        classes = number_classes(ids)
    class_of: dict[int | None, int] = {value: k for k, value in enumerate(classes.values, 1)}
    rles: dict[str, dict[int, str]] = {}
    seen: dict[tuple[str, int | None], int] = {}
    unmatched: dict[str, None] = {}
    for row in found.rows:
        class_id = class_of.get(row.class_id)
        if class_id is None and row.class_id is not None:
            issues.append(Issue("rows with an unknown class id", f"{row.name} (line {row.line})"))
            continue
        if row.image_id not in image_ids:
            unmatched[row.image_id] = None
        first = seen.setdefault((row.image_id, class_id), row.line)
        if first != row.line:
            issues.append(Issue("duplicate rows", f"{row.name} (lines {first} and {row.line})"))
        elif row.rle and class_id is not None:
            rles.setdefault(row.image_id, {})[class_id] = row.rle
    issues += [Issue("ids without an image", image_id) for image_id in unmatched]
    hint = f"in {url}"
    if unmatched and len(unmatched) == len({row.image_id for row in found.rows}):
        hint += "; no id matches an image: is this the right image folder?"
    raise_issues(issues, hint)
    return classes, RunLengthMasks(len(classes), rles)
