"""CSV files as people, databases and spreadsheets write them: one reader, whatever they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.splits import read_groups_file, read_split_file
from steel.errors import InputError
from steel.labels.csv_file import read_rows, read_table, whole_number
from steel.labels.image_index import ImageIndex
from steel.labels.kaggle_labels import read_kaggle_labels
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.submission import read_submission
from steel.synthetic.annotations import read_given_masks


def read_labels(path: str) -> FoundLabels:
    return read_kaggle_labels(path, ImageIndex(IDS), LabelOptions())


def texts_of(found: FoundLabels) -> tuple[object, dict[str, dict[int, str]]]:
    """Classes and run-length texts; on which lines they stand is left out."""
    rles = found.source.rles  # type: ignore[attr-defined]
    return found.classes, {image: {k: row.rle for k, row in rows.items()} for image, rows in rles.items()}


ROWS, PAIRS = "ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"
IDS = ("a.jpg", "b.jpg")


def load_ids(path: str) -> Any:
    annotations = Path(path).with_name("annotations.csv")
    annotations.write_text(f"{ROWS}\na.jpg,1,1 1\nb.jpg,1,1 1\n")
    return read_given_masks(annotations, path, 4, 5).image_ids


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "annotations, a row a class": (
        f"{ROWS}\na.jpg,1,1 2\nb.jpg,2,3 4\n",
        lambda path: texts_of(read_labels(path)),
    ),
    "annotations, pairs": (
        f"{PAIRS}\na.jpg_1,1 2\nb.jpg_2,3 4\n",
        lambda path: texts_of(read_labels(path)),
    ),
    "masks to render": (f"{ROWS}\na.jpg,1,1 2\nb.jpg,2,3 4\n", lambda path: read_given_masks(path, None, 4, 5)),
    "submission": (f"{PAIRS}\na.jpg_1,1 2\nb.jpg_1,\n", read_submission),
    "submission, a row a class": (f"{ROWS}\na.jpg,1,1 2\nb.jpg,1,\n", read_submission),
    "groups": ("image,group\na.jpg,0815\nb.jpg,0816\n", lambda path: read_groups_file(path, IDS).tolist()),
    "split": ("image,fold\na.jpg,0\nb.jpg,1\n", lambda path: read_split_file(path, IDS).tolist()),
    "image ids": ("a.jpg\nb.jpg\n", load_ids),
}
each_reader = pytest.mark.parametrize("name", READERS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


@each_reader
def test_blank_lines_mean_nothing(path: Path, name: str) -> None:
    text, read = READERS[name]
    path.write_text(text)
    expected = read(str(path))
    first, *others = text.splitlines()
    commas = "," * first.count(",")  # a row that a spreadsheet leaves behind
    spaced = "\r\n".join([first, "", others[0], "   ", commas, "\t", *others[1:], "", " ", commas])
    for whole in (spaced, "\ufeff" + text, text.rstrip("\n")):
        path.write_bytes(whole.encode())
        assert read(str(path)) == expected


@each_reader
def test_a_row_of_another_width_is_named_by_file_and_line(path: Path, name: str) -> None:
    text, read = READERS[name]
    last = len(text.splitlines()) + 2
    for trailer in ("(2 rows)", "-----+---+----+--"):  # as database shells print
        path.write_text(f"{text}\n{trailer}\n")
        if name == "image ids":
            trailer = f"{trailer},"
            path.write_text(f"{text}\n{trailer}\n")
        with pytest.raises(InputError) as caught:
            read(str(path))
        assert f"malformed rows: line {last} ({trailer})" in str(caught.value)
        assert str(path) in str(caught.value)


@each_reader
def test_a_quotation_mark_that_is_never_closed_is_named_by_its_first_line(path: Path, name: str) -> None:
    text, read = READERS[name]
    if name == "image ids":
        return
    path.write_text(text + '"c.jpg\n' + "d.jpg,1,1 1\n" * 3)
    with pytest.raises(InputError) as caught:
        read(str(path))
    assert f"malformed rows: line {len(text.splitlines()) + 1} (c.jpg\\nd.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@each_reader
@pytest.mark.parametrize("content", [b"\xff\xff", "Bände".encode("latin-1")])
def test_what_is_no_text_in_utf_8_is_told(path: Path, name: str, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"table\.csv: not a text file in UTF-8"):
        READERS[name][1](str(path))


@each_reader
@pytest.mark.parametrize("order", ["little", "big"])
def test_a_spreadsheets_unicode_text_is_told(path: Path, name: str, order: str) -> None:
    path.write_bytes("\ufeffa.jpg\t1\n".encode(f"utf-16-{order[0]}e"))
    with pytest.raises(InputError, match=r"table\.csv: in UTF-16, as a spreadsheet's .*; save it as `CSV UTF-8`"):
        READERS[name][1](str(path))


@each_reader
def test_a_file_that_is_not_there_is_told(path: Path, name: str) -> None:
    path.write_text("")
    for missing in (path.with_name("other.csv"), path.parent, path / "below.csv"):
        if name == "image ids" and missing.parent == path:
            continue
        with pytest.raises(InputError, match=f"{missing}: no such file"):
            READERS[name][1](str(missing))


def test_lines_are_counted_through_cells_of_several_lines(path: Path) -> None:
    path.write_text('x,y\n"1\n2",3\n4,5\n')
    assert [(row.line, row.cells) for row in read_rows(str(path))] == [
        (1, ("x", "y")), (2, ("1\n2", "3")), (4, ("4", "5")),
    ]  # fmt: skip


def test_columns_may_stand_in_any_order(path: Path) -> None:
    path.write_text(" y , x\n1,2\n")
    table = read_table(str(path), ("a", "b"), ("x", "y"))
    assert (table.columns, table.form) == (("y", "x"), ("x", "y"))
    assert table.rows == [(2, ("2", "1"))]
    with pytest.raises(InputError, match="the header is `y,x`, expected `x,y,z` or `x,w`"):
        read_table(str(path), ("x", "y", "z"), ("x", "w"))


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), (" 03 ", 3), ("3.0", 3), ("3.", 3), ("12.000", 12), ("0", 0), ("1.5", None), ("-1", None)]
    + [(text, None) for text in ("", "nan", "1e3", "1.0.0", "²", "9" * 5000, "0x1", "1,0", "inf")],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


# --- class ids as pandas writes them ---

FLOATS = f"{ROWS}\na.jpg,1.0,1 2\na.jpg,3.0,9 4\nb.jpg,,\n"
"""What `images.merge(masks, how="left").to_csv(index=False)` leaves: a column with a missing number holds floats."""


def test_class_ids_of_a_column_with_missing_numbers(path: Path) -> None:
    path.write_text(FLOATS)
    found = read_labels(str(path))
    classes, masks, _ = found
    assert classes.values == (1, 2, 3)
    assert texts_of(found)[1] == {"a.jpg": {1: "1 2", 3: "9 4"}}
    assert masks.class_ids("b.jpg") == frozenset()
    given = read_given_masks(path, None, 4, 5)
    assert (given.image_ids, given.rows("a.jpg"), given.rows("b.jpg")) == (IDS, ((1, "1 2"), (3, "9 4")), ())
    assert [(row.image_id, row.class_id) for row in read_submission(path).rows] == [
        ("a.jpg", 1), ("a.jpg", 3), ("b.jpg", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"), [("a.jpg,1.5,1 2", "'1.5' for a.jpg"), ("a.jpg,,1 2", "'' for a.jpg"), ("a.jpg,x,", "'x' for")]
)
def test_class_ids_that_are_none_are_named(path: Path, row: str, said: str) -> None:
    path.write_text(f"{ROWS}\nb.jpg,1,\n{row}\n")
    readers = (lambda: read_labels(str(path)), lambda: read_submission(path))
    for read in readers:
        with pytest.raises(InputError) as caught:
            read()
        assert f"class ids that are no whole number from 0 on: line 3 ({said}" in str(caught.value)


def test_folds_may_be_written_as_floats_too(path: Path) -> None:
    path.write_text("fold,image\n1.0,a.jpg\n0.0,b.jpg\n")
    assert read_split_file(str(path), IDS).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["a/b.jpg", "b.png", "..", "a\0.jpg", "x" * 300 + ".jpg"])
def test_names_that_are_no_file_name_are_not_rendered(path: Path, name: str) -> None:
    path.write_text(f"{ROWS}\n{name},1,1 1\n")
    with pytest.raises(InputError, match=r"malformed rows|no file name ending"):
        read_given_masks(path, None, 4, 5)
