"""Masks that are given for synthetic images, read from one of Kaggle's CSV forms without the images they belong to."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from steel.errors import InputError, printable
from steel.labels.csv_file import read_names
from steel.labels.kaggle_csv import read_kaggle_csv
from steel.labels.rle import decode_rle
from steel.validation_errors import Issue, raise_issues


@dataclass(frozen=True)
class GivenMasks:
    """Images to render and their masks."""

    image_ids: tuple[str, ...]
    """Sorted; images without a mask are clean."""
    masks: dict[str, dict[int, str]]
    """Run lengths by image id and class, for images with any."""

    def rows(self, image_id: str) -> tuple[tuple[int, str], ...]:
        """Class ids and run lengths of one image; none for a clean one."""
        return tuple(sorted(self.masks.get(image_id, {}).items()))

    def all_rows(self) -> Iterator[tuple[str, int, str]]:
        """`ImageId, ClassId, EncodedPixels` of all images, run lengths character for character as given."""
        return ((image_id, class_id, rle) for image_id in self.image_ids for class_id, rle in self.rows(image_id))

    def part(self, number: int | None, seed: int) -> "GivenMasks":
        """A random part of the images; all of them when `number` is None.

        Raises:
            InputError: `number` is below 1, or more than there are.
        """
        if number is None:
            return self
        if number < 1:
            raise InputError(f"synth: {number} training images asked for; give at least 1, or leave it out for all")
        if number > len(self.image_ids):
            raise InputError(f"synth: {number} images asked for, but the annotations have {len(self.image_ids)}")
        chosen = np.random.default_rng([seed, 3]).permutation(len(self.image_ids))[:number]
        return GivenMasks(tuple(self.image_ids[i] for i in sorted(chosen)), self.masks)

    def digest(self) -> str:
        """sha256 of ids and masks."""
        return hashlib.sha256(repr([(i, self.rows(i)) for i in self.image_ids]).encode()).hexdigest()


def decode_rows(rows: Sequence[tuple[int, str]], height: int, width: int) -> dict[int, np.ndarray]:
    """(height, width) uint8 masks of 0 and 1 by class id."""
    return {class_id: decode_rle(rle, height, width) for class_id, rle in rows}


def read_given_masks(
    annotations: str | os.PathLike[str], image_ids: str | os.PathLike[str] | None, height: int, width: int
) -> GivenMasks:
    """Read masks from `ImageId,ClassId,EncodedPixels` or `ImageId_ClassId,EncodedPixels`.

    Args:
        annotations: the CSV.
        image_ids: file with one image id a line: the images wanted. Those the CSV names, when None.
        height: rows of the images, in pixels; every run must end inside.
        width: their columns.

    Raises:
        InputError: an unreadable file, another header, or faulty rows, all at once.
    """
    found = read_kaggle_csv(os.fspath(annotations))
    rows, issues = found.rows, list(found.issues)
    masks: dict[str, dict[int, str]] = {}
    for row in rows:
        where = f"{row.name} (line {row.line})"
        if row.class_id == 0:
            issues.append(Issue("rows with class 0, where classes count from 1", where))
        elif row.rle and row.class_id is not None:
            if row.class_id in masks.setdefault(row.image_id, {}):
                issues.append(Issue("duplicate rows", where))
            masks[row.image_id][row.class_id] = row.rle
    for image_id, rles in masks.items():
        for class_id, rle in rles.items():
            try:
                decode_rle(rle, height, width)
            except InputError as error:
                fault = f"{image_id} class {class_id}: {error}"
                issues.append(Issue(f"masks that do not fit {height}x{width} pixels", fault))
    wanted = sorted({row.image_id for row in rows} if image_ids is None else set(read_names(os.fspath(image_ids))))
    issues += [Issue("ids that are no file name ending in .jpg", name) for name in wanted if not _is_file_name(name)]
    raise_issues(issues, f"in {annotations}")
    if not wanted:
        raise InputError(f"{image_ids or annotations}: names no image")
    return GivenMasks(tuple(wanted), {i: masks[i] for i in wanted if masks.get(i)})


def _is_file_name(name: str) -> bool:
    is_plain = PurePosixPath(name).name == name == printable(name) and len(name.encode()) <= _LONGEST_NAME
    return is_plain and name.lower().endswith((".jpg", ".jpeg"))


_LONGEST_NAME = 255
"""Bytes that file systems allow."""
