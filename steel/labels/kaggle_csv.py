"""Kaggle's CSV files, of annotations and of answers alike: one reader of both forms, told apart by their header.

`ImageId_ClassId,EncodedPixels` (`0002cc93b.jpg_1,...`) and `ImageId,ClassId,EncodedPixels`, the columns in any order. A
blank mask says that the image has no such defect.
"""

from dataclasses import dataclass
from typing import NamedTuple

from steel.labels.csv_file import malformed, read_table, whole_number
from steel.validation_errors import Issue

PAIR_FORMAT = ("ImageId_ClassId", "EncodedPixels")
ROW_FORMAT = ("ImageId", "ClassId", "EncodedPixels")


class KaggleRow(NamedTuple):
    """One class of one image."""

    line: int
    image_id: str
    class_id: int | None
    """None where both class and mask are blank, as joining a list of images to its masks leaves them: a clean image."""
    rle: str
    """Run-length text; "" for none."""

    @property
    def name(self) -> str:
        """`image class k`."""
        return self.image_id if self.class_id is None else f"{self.image_id} class {self.class_id}"


@dataclass(frozen=True)
class KaggleCsv:
    """A file as it stands."""

    columns: tuple[str, ...]
    """In the order of the file."""
    is_pairs: bool
    """Image and class share a column."""
    rows: tuple[KaggleRow, ...]
    issues: tuple[Issue, ...]
    """Rows that are none, each with its line."""


def read_kaggle_csv(url: str) -> KaggleCsv:
    """Read all rows of a file, those that can be read and those that cannot.

    Raises:
        InputError: no such file, or not one of the two forms.
    """
    table = read_table(url, ROW_FORMAT, PAIR_FORMAT)
    is_pairs = table.form == PAIR_FORMAT
    rows, issues = [], list(table.issues)
    for row in table.rows:
        *name, rle = row.cells
        image_id, class_text = name[0].rpartition("_")[::2] if is_pairs else name
        class_id, rle = whole_number(class_text), rle.strip()
        is_clean = not is_pairs and not class_text.strip() and not rle
        if not image_id:
            issues.append(malformed(row))
        elif class_id is None and not is_clean:
            where = f"line {row.line} ({class_text.strip()!r} for {image_id})"
            issues.append(Issue("class ids that are no whole number from 0 on", where))
        else:
            rows.append(KaggleRow(row.line, image_id, class_id, rle))
    return KaggleCsv(table.columns, is_pairs, tuple(rows), tuple(issues))
