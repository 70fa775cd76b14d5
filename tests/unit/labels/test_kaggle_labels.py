"""Labels in Kaggle's CSV: both forms mean the same, and every mistake is told at once."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from steel.errors import InputError
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.validation_errors import ValidationErrors
from tests.label_files import ROWS, problems_of, write_images, write_text

PAIRS = "ImageId_ClassId,EncodedPixels\n"


@pytest.mark.parametrize(
    "text",
    [
        ROWS + "a.png,1,1 2\na.png,3,2 1 9 4\nsub/c.png,2,24 1\n",
        PAIRS + "a.png_1,1 2\na.png_2,\na.png_3,2 1 9 4\nb.png_1,\nb.png_2,\nb.png_3,\nsub/c.png_2,24 1\n",
        "\ufeff" + ROWS.replace("\n", "\r\n") + '"a.png",1,"1 2"\r\na.png,3,2 1 9 4\r\nsub/c.png,02,24 1\r\n\r\n',
    ],
)
def test_both_csv_forms_mean_the_same(tmp_path, text):
    images = write_images(tmp_path / "images", "a.png", "b.png", "sub/c.png")
    found = load_labels(images, write_text(tmp_path / "train.csv", text))
    assert found.class_names == ("class 1", "class 2", "class 3")
    assert [record.image_id for record in found.images] == ["a.png", "b.png", "sub/c.png"]
    assert Path(found.images[2].url) == images / "sub/c.png"
    assert [found.class_ids(i) for i in ("a.png", "b.png", "sub/c.png")] == [{1, 3}, frozenset(), {2}]
    assert found.bitmask("a.png", 4, 6).tolist() == [
        [1, 0, 4, 0, 0, 0],
        [5, 0, 4, 0, 0, 0],
        [0, 0, 4, 0, 0, 0],
        [0, 0, 4, 0, 0, 0],
    ]
    assert found.bitmask("a.png", 4, 6).dtype == np.uint8
    assert not found.bitmask("b.png", 4, 6).any()
    assert found.bitmask("sub/c.png", 4, 6)[3, 5] == 2
    assert found.ignore is False
    assert found.ignore_bit is None


def test_all_csv_problems_are_told_at_once(tmp_path):
    images = write_images(tmp_path / "images", "a.png", "b.png")
    rows = ["a.png,1,1 2", "a.png,1,5 2", "a.png,7,1 2", "b.png,x,1 2", "b.png,1", "lost.png,1,1 2", "lost.png,2,1 1"]
    rows += [f"gone{k}.png,2,1 1" for k in range(6)]
    csv = write_text(tmp_path / "train.csv", ROWS + "\n".join(rows))
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, csv, LabelOptions(class_names=["pit", "scratch"]))
    assert problems_of(error) == {
        "malformed rows": ["line 6 (b.png,1)"],
        "class ids that are no whole number from 0 on": ["line 5 ('x' for b.png)"],
        "labels of an unknown class": ["a.png class 7 (line 4)"],
        "duplicate rows": ["a.png class 1 (lines 2 and 3)"],
        "labels without an image": ["lost.png", *(f"gone{k}.png" for k in range(6))],
    }
    line = str(error.value)
    assert "\n" not in line
    assert "labels without an image: lost.png, gone0.png, gone1.png, gone2.png, gone3.png and 2 more" in line


@pytest.mark.parametrize(
    ("image", "name"),
    [("sub/b.png", "b.png"), ("b.png", "home/me/b.png"), ("b.png", "b"), ("b.png", "b.jpg"), ("b.png", "sub\\b.png")],
)
def test_ids_find_their_image_as_other_labels_do(tmp_path: Path, image: str, name: str) -> None:
    images = write_images(tmp_path / "images", image, "other.png")
    found = load_labels(images, write_text(tmp_path / "train.csv", f"{ROWS}{name},1,1 2\n{name},2,\n"))
    assert (found.class_ids(image), found.class_ids("other.png")) == ({1}, frozenset())


@pytest.mark.parametrize("folder", ["", "sub/"])
@pytest.mark.parametrize("ids", [["a.1"], ["a.1", "a"], ["2024.05.01"], ["2024.05.01", "2024.05.02"], ["a.1.png", "a"]])
def test_a_dot_in_a_name_begins_no_ending(tmp_path: Path, ids: list[str], folder: str) -> None:
    names = ["a", "a.1", "2024.05.01", "2024.05.02"]
    images = write_images(tmp_path / "images", "whole.jpg", *(f"{folder}{name}.jpg" for name in names))
    for more in ("", "whole.jpg,1,1 2\n"):  # beside an id that is a whole path
        rows = "".join(f"{folder}{name},2,1 2\n" for name in ids)
        found = load_labels(images, write_text(tmp_path / "train.csv", f"{ROWS}{rows}{more}"))
        marked = {name for name in names if found.class_ids(f"{folder}{name}.jpg")}
        assert marked == {name.removesuffix(".png") for name in ids}


def test_what_follows_a_dot_is_not_cut_off_for_another_image(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg")
    with pytest.raises(InputError, match=r"their endings are none of image files, as in a\.1; leave them out"):
        load_labels(images, write_text(tmp_path / "train.csv", f"{ROWS}a.1,1,1 2\n"))
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, write_text(tmp_path / "train.csv", f"{ROWS}a.1,1,1 2\nb,1,1 2\n"))
    assert problems_of(error) == {"labels without an image": ["a.1"]}


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_other_capitals_need_their_option(tmp_path: Path, folder: str) -> None:
    images = write_images(tmp_path / "images", f"{folder}A.PNG", "b.png")
    csv = write_text(tmp_path / "train.csv", f"{ROWS}{folder}a.png,1,1 2\n{folder}a.png,2,4 2\nb.png,1,1 1\n")
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, csv)
    kind = "labels named in other capitals than their image (--any-case takes them)"
    assert problems_of(error) == {kind: [f"{folder}a.png (for {folder}A.PNG)"]}
    assert load_labels(images, csv, LabelOptions(any_case=True)).class_ids(f"{folder}A.PNG") == {1, 2}


def test_an_id_that_fits_as_it_is_comes_first(tmp_path: Path) -> None:
    """Neither an image that has rows of its own nor a clean one takes those of another folder's, which is not there."""
    images = write_images(tmp_path / "images", "coil 1/a.png", "coil 1/b.png")
    rows = ROWS + "coil 2/a.png,2,1 1\ncoil 2/b.png,2,1 1\ncoil 1/a.png,1,1 1\na.jpg,2,1 1\n"
    csv = write_text(tmp_path / "train.csv", rows)
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, csv)
    assert problems_of(error) == {"labels without an image": ["coil 2/a.png", "coil 2/b.png", "a.jpg"]}
    found = load_labels(images, csv, LabelOptions(stray_labels="skip"))
    assert [found.class_ids(f"coil 1/{name}.png") for name in "ab"] == [{1}, frozenset()]


def test_ids_may_begin_with_the_name_of_the_folder_of_images(tmp_path: Path) -> None:
    """The file is of two lines and the images of one: its clean ones do not take the rows of the other's namesakes."""
    images = write_images(tmp_path / "line 1", "a.png", "b.png", "c.jpg")
    rows = ROWS + "line 1/a.png,1,1 1\nline 2/b.png,2,1 1\nline 1/c.png,1,1 1\n"
    csv = write_text(tmp_path / "train.csv", rows)
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, csv)
    assert problems_of(error) == {"labels without an image": ["line 2/b.png"]}
    found = load_labels(f"{images}/", csv, LabelOptions(stray_labels="skip"))
    assert [found.class_ids(name) for name in ("a.png", "b.png", "c.jpg")] == [{1}, frozenset(), {1}]
    both = write_text(tmp_path / "both.csv", ROWS + "a.png,1,1 1\nline 1/a.png,2,1 1\n")
    with pytest.raises(ValidationErrors, match="labels without an image: line 1/a"):
        load_labels(images, both)
    nested = write_images(tmp_path / "x", "a.png", "x/a.png")
    found = load_labels(nested, write_text(tmp_path / "x.csv", f"{ROWS}x/a.png,1,1 1\n"))
    assert [found.class_ids(name) for name in ("a.png", "x/a.png")] == [frozenset(), {1}]


@pytest.mark.parametrize("name", ["sub\\b.png", "sub\\b.jpg", "sub\\b"])
def test_backslashes_are_slashes_beside_whole_paths_too(tmp_path: Path, name: str) -> None:
    images = write_images(tmp_path / "images", "a.png", "sub/b.png")
    found = load_labels(images, write_text(tmp_path / "train.csv", f"{ROWS}a.png,1,1 2\n{name},2,1 2\n"))
    assert [found.class_ids(image) for image in ("a.png", "sub/b.png")] == [{1}, {2}]


def test_two_ids_for_one_image_are_told(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.png")
    csv = write_text(tmp_path / "train.csv", ROWS + "coil 1/a.png,1,1 1\ncoil 2/a.png,2,1 1\n")
    with pytest.raises(InputError, match=r"second labels for one image: coil 2/a\.png \(for a\.png\)"):
        load_labels(images, csv, LabelOptions(stray_labels="skip"))


def test_masks_that_do_not_fit_their_image_are_told_together(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    csv = write_text(tmp_path / "train.csv", ROWS + "a.png,1,20 6\na.png,2,1 1\na.png,3,3 2 1 1\n")
    found = load_labels(images, csv)
    with pytest.raises(ValidationErrors) as error:
        found.bitmask("a.png", 4, 6)
    (names,) = problems_of(error).values()
    assert f"a.png class 1 ({csv}, line 2: RLE: pair 1 (20 6) lies outside of the 4x6 image" in names[0]
    assert f"a.png class 3 ({csv}, line 4: RLE: pair 2 (1 1) overlaps" in names[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Image,Class,Mask\n", "header is `Image,Class,Mask`, expected `ImageId,ClassId,EncodedPixels` or"),
        ("", "train.csv: the file is empty, expected `ImageId,"),
        (ROWS.replace(",", ";") + "a.png;1;1 2\n", "EncodedPixels`, with semicolons between the columns"),
        (ROWS.replace(",", "\t") + "a.png\t1\t1 2\n", "EncodedPixels`, with tabs between the columns"),
        (ROWS, "no classes"),
        (ROWS + "a.png,17,1 1\n", "class ids go up to 17, but at most 16"),
        (ROWS + "a.png,0,1 1\n", r"all class ids are 0, .* --class-names 0=\.\.\."),
        (ROWS + "a.png,0,1 1\na.png,1,1 1\n", r"labels of an unknown class: a\.png class 0 \(line 2\)"),
        (ROWS + "a.png,-1,1 1\na.png,1,1 1\n", r"no whole number from 0 on: line 2 \('-1' for a\.png\)"),
        (ROWS + "b.jpg,1,1 1\n", "labels without an image: b.jpg .*is this the right image folder"),
        (PAIRS + "a.png,1 1\nb.png_1,\n", "malformed rows: line 2"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, text, message):
    images = write_images(tmp_path / "images", "a.png")
    with pytest.raises(InputError, match=message):
        load_labels(images, write_text(tmp_path / "train.csv", text))


def test_a_file_that_is_no_text(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    (tmp_path / "train.csv").write_bytes(b"\xffI\0m\0")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        load_labels(images, tmp_path / "train.csv")


def test_class_numbers_are_free_when_named(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    csv = write_text(tmp_path / "train.csv", ROWS + "a.png,30,1 1\na.png,0,2 1\n")
    found = load_labels(images, csv, LabelOptions(class_names=["30=pit", "0=scratch", "4=dent"]))
    assert found.class_names == ("pit", "scratch", "dent")
    assert found.bitmask("a.png", 4, 6)[:2, 0].tolist() == [1, 2]


def test_sixteen_classes_take_two_bytes(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    csv = write_text(tmp_path / "train.csv", ROWS + "a.png,16,1 1\na.png,9,1 1\n")
    found = load_labels(images, csv)
    assert found.bitmask("a.png", 4, 6).dtype == np.uint16
    assert found.bitmask("a.png", 4, 6)[0, 0] == (1 << 15) + (1 << 8)


def test_a_share_for_a_worker_holds_only_its_images(tmp_path):
    images = write_images(tmp_path / "images", *(f"{k}.png" for k in range(50)))
    csv = write_text(tmp_path / "train.csv", ROWS + "".join(f"{k}.png,1,1 2 5 9\n" for k in range(50)))
    found = load_labels(images, csv)
    share = pickle.loads(pickle.dumps(found.subset(["7.png", "3.png"])))
    assert [record.image_id for record in share.images] == ["3.png", "7.png"]
    assert np.array_equal(share.bitmask("7.png", 4, 6), found.bitmask("7.png", 4, 6))
    assert len(pickle.dumps(share)) < len(pickle.dumps(found)) / 5
