"""Formats for `test_fuzz`: CSV files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.splits import read_groups_file, read_split_file
from steel.errors import InputError
from steel.labels.image_index import ImageIndex
from steel.labels.kaggle_labels import read_kaggle_labels
from steel.labels.options import LabelOptions
from steel.labels.submission import read_submission
from steel.synthetic.annotations import decode_rows, read_given_masks
from tests.fuzzing import TABLE_EDITS, Format
from tests.submission_check import validate_submission

IDS = ("a.jpg", "b.jpg", "c.jpg")
MASKS = "ImageId,ClassId,EncodedPixels\na.jpg,1,1 2 9 3\na.jpg,2,5 1\nc.jpg,2,1 20\n"
PAIRS = "ImageId_ClassId,EncodedPixels\na.jpg_1,1 2 9 3\na.jpg_2,5 1\nb.jpg_1,\nb.jpg_2,\nc.jpg_1,\nc.jpg_2,1 20\n"
ANSWERS = "EncodedPixels,ImageId,ClassId\n1 2,a.jpg,1\n,a.jpg,2\n1 20,b.jpg,1\n,b.jpg,2\n,c.jpg,1\n3 1,c.jpg,2\n"
SPLIT = "image,fold\na.jpg,0\nb.jpg,1\nc.jpg,2\n"
GROUPS = "image,group\na.jpg,0815\nb.jpg,0816\nc.jpg,0815\n"


def text_file(text: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "table.csv").write_text(text)
        return "table.csv"

    return make


def read_annotations(folder: Path) -> Any:
    """The masks of every image; what is wrong with one names the image instead of the file."""
    path = str(folder / "table.csv")
    classes, source, _ = read_kaggle_labels(path, ImageIndex(IDS), LabelOptions())
    try:
        planes = [{k: plane.tolist() for k, plane in source.planes(i, 4, 5).items()} for i in IDS]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return classes, planes


def read_masks_to_render(folder: Path) -> Any:
    given = read_given_masks(folder / "table.csv", None, 4, 5)
    return given, [{k: m.tolist() for k, m in decode_rows(given.rows(i), 4, 5).items()} for i in given.image_ids]


def read_answers(folder: Path) -> Any:
    path = folder / "table.csv"
    return read_submission(path), validate_submission(path, num_classes=2, image_ids=IDS, size=(4, 5))


FORMATS: dict[str, Format] = {
    "masks in a CSV": Format(text_file(MASKS), read_annotations, TABLE_EDITS),
    "masks in pairs": Format(text_file(PAIRS), read_annotations, TABLE_EDITS),
    "masks to render": Format(text_file(MASKS), read_masks_to_render, TABLE_EDITS),
    "answers in pairs": Format(text_file(PAIRS), read_answers, TABLE_EDITS),
    "answers": Format(text_file(ANSWERS), read_answers, TABLE_EDITS),
    "groups": Format(
        text_file(GROUPS), lambda folder: read_groups_file(str(folder / "table.csv"), IDS).tolist(), TABLE_EDITS
    ),
    "split": Format(
        text_file(SPLIT), lambda folder: read_split_file(str(folder / "table.csv"), IDS).tolist(), TABLE_EDITS
    ),
}
