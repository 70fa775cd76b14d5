"""Masks that are given for synthetic images, read from one of Kaggle's CSV forms without the images they belong to."""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from steel.data.rle import decode_rle
from steel.errors import InputError, list_some


@dataclass(frozen=True)
class GivenMasks:
    """Images to render and their masks."""

    image_ids: tuple[str, ...]
    """Sorted; images without a mask are clean."""
    masks: dict[str, tuple[tuple[int, str], ...]]
    """Class id and run lengths by image id, for images with any."""

    def rows(self, image_id: str) -> tuple[tuple[int, str], ...]:
        """Class ids and run lengths of one image; none for a clean one."""
        return self.masks.get(image_id, ())

    def all_rows(self) -> Iterator[tuple[str, int, str]]:
        """`ImageId, ClassId, EncodedPixels` of all images, run lengths character for character as given."""
        return ((image_id, class_id, rle) for image_id in self.image_ids for class_id, rle in self.rows(image_id))

    def part(self, number: int | None, seed: int) -> "GivenMasks":
        """A random part of the images; all of them when `number` is None."""
        if number is None:
            return self
        if number > len(self.image_ids):
            raise InputError(f"synth: {number} images asked for, the annotations have {len(self.image_ids)}")
        chosen = np.random.default_rng([seed, 3]).permutation(len(self.image_ids))[:number]
        return GivenMasks(tuple(self.image_ids[i] for i in sorted(chosen)), self.masks)

    def digest(self) -> str:
        """sha256 of ids and masks."""
        return hashlib.sha256(repr([(i, self.rows(i)) for i in self.image_ids]).encode()).hexdigest()

    @staticmethod
    def decode(class_ids: Sequence[int], rles: Sequence[str], height: int, width: int) -> dict[int, np.ndarray]:
        """(height, width) uint8 masks by class id."""
        return {k: decode_rle(rle, height, width) for k, rle in zip(class_ids, rles, strict=True)}


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
        InputError: an unreadable file, another header, or faulty rows, counted, the first few named.
    """
    named: list[str] = []
    masks: dict[str, dict[int, str]] = {}
    faults: list[str] = []
    for line, image_id, class_text, rle in _rows(Path(annotations)):
        if not _is_file_name(image_id):
            faults.append(f"line {line} ({image_id!r} is no file name ending in .jpg)")
            continue
        named.append(image_id)
        if not rle.strip():
            continue
        if not (class_text.isdecimal() and int(class_text) > 0):
            faults.append(f"line {line} (class {class_text!r})")
            continue
        if int(class_text) in masks.setdefault(image_id, {}):
            faults.append(f"line {line} ({image_id} has class {class_text} twice)")
            continue
        masks[image_id][int(class_text)] = rle
        try:
            decode_rle(rle, height, width)
        except InputError as error:
            faults.append(f"line {line} ({error})")
    if faults:
        raise InputError(f"{annotations}: {len(faults)} faulty rows: {list_some(faults, 3)}")
    wanted = sorted(set(named)) if image_ids is None else _read_ids(Path(image_ids))
    if not wanted:
        raise InputError(f"{image_ids or annotations}: names no image")
    return GivenMasks(tuple(wanted), {i: tuple(sorted(masks[i].items())) for i in wanted if masks.get(i)})


def _rows(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Line number, image id, class and run lengths of every row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            csv.field_size_limit(1 << 30)
            reader = csv.reader(file)
            header = next(reader, [])
            if header not in (["ImageId", "ClassId", "EncodedPixels"], ["ImageId_ClassId", "EncodedPixels"]):
                raise InputError(
                    f"{path}: header {','.join(header)!r} is neither ImageId,ClassId,EncodedPixels "
                    "nor ImageId_ClassId,EncodedPixels"
                )
            for cells in reader:
                if len(cells) != len(header):
                    raise InputError(f"{path}: line {reader.line_num} has {len(cells)} cells, not {len(header)}")
                image_id, class_text = cells[:2] if len(cells) == 3 else cells[0].rpartition("_")[::2]
                yield reader.line_num, image_id, class_text, cells[-1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV: {error}") from error


def _read_ids(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of image ids: {error}") from error
    bad = [name for name in names if not _is_file_name(name)]
    if bad:
        raise InputError(f"{path}: {len(bad)} names are no file names ending in .jpg: {list_some(bad)}")
    return sorted(set(names))


def _is_file_name(name: str) -> bool:
    return PurePosixPath(name).name == name and name.lower().endswith((".jpg", ".jpeg"))
