"""YOLO's segmentation text in the layouts of Ultralytics, Roboflow and Label Studio."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_tools

from steel.errors import InputError
from steel.labels.labels import labelled_images
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.labels.yolo import write_yolo

HEIGHT, WIDTH = 40, 60
RING = [3.4, 2.2, 30.7, 5.5, 12.25, 33.3]
NAMES = "names:\n  0: pit\n  1: dent\n"


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH), 90, np.uint8))
    return folder


def line(class_id: int | str, points: list[float]) -> str:
    """With six decimals, as Ultralytics' converters write it."""
    shares = np.reshape(points, (-1, 2)) / [WIDTH, HEIGHT]
    return " ".join([str(class_id), *(f"{share:.6f}" for share in shares.ravel())]) + "\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def by_coco(points: list[float]) -> np.ndarray:
    return coco_tools.decode(coco_tools.frPyObjects([points], HEIGHT, WIDTH))[:, :, 0]


def test_polygons_and_boxes(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "clean.jpg")
    write(tmp_path / "labels/a.txt", line(0, RING) + f"\n1 {10 / WIDTH} {20 / HEIGHT} {8 / WIDTH} {6 / HEIGHT}\n")
    write(tmp_path / "labels/clean.txt", "")
    write(tmp_path / "data.yaml", f"path: ../datasets/steel\ntrain: images\nval: images\n{NAMES}")
    found = load_labels(images, tmp_path / "labels")
    assert found.class_names == ("pit", "dent")
    bits = found.bitmask("a.jpg", HEIGHT, WIDTH)
    assert np.array_equal(bits & 1, by_coco(RING))
    assert np.argwhere(bits & 2).min(axis=0).tolist() == [17, 6]
    assert np.argwhere(bits & 2).max(axis=0).tolist() == [22, 13]
    assert found.class_ids("clean.jpg") == frozenset()


@pytest.mark.parametrize(
    ("images", "labels", "given"),
    [
        ("images/train", "labels/train", "labels"),
        ("images/train", "labels/train", "labels/train"),
        ("images", "labels", "."),
        ("train/images", "train/labels", "."),
        ("train/images", "train/labels", "train/labels"),
        ("together", "together", "together"),
    ],
)
@pytest.mark.parametrize("table", ["data.yaml", "classes.txt"])
def test_layouts(tmp_path: Path, images: str, labels: str, given: str, table: str) -> None:
    write_images(tmp_path / images, "coil/a.jpg")
    write(tmp_path / labels / "coil/a.txt", line(1, RING))
    write(tmp_path / table, NAMES if table == "data.yaml" else "pit\ndent\n")
    for root in {tmp_path / images, tmp_path if given == "." else tmp_path / images}:
        found = load_labels(root, tmp_path / given)
        (record,) = found.images
        assert found.class_names == ("pit", "dent")
        assert np.array_equal(found.bitmask(record.image_id, HEIGHT, WIDTH) >> 1, by_coco(RING))


def test_label_studio_puts_its_categories_beside(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(1, RING))
    write(tmp_path / "classes.txt", "pit\ndent\n")
    notes = {"categories": [{"id": 0, "name": "pit"}, {"id": 1, "name": "dent"}], "info": {"version": "1.0"}}
    write(tmp_path / "notes.json", json.dumps(notes))
    found = load_labels(tmp_path / "images", tmp_path)
    assert found.class_names == ("pit", "dent")
    assert np.array_equal(found.bitmask("a.jpg", HEIGHT, WIDTH) >> 1, by_coco(RING))


def test_label_studio_names_files_as_its_local_storage_does(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "coil 1.jpg", "b.jpg")
    write(tmp_path / "labels/?d=coil%201.txt", line(1, RING))
    write(tmp_path / "labels/?d=b.txt", "")
    write(tmp_path / "classes.txt", "pit\ndent\n")
    found = load_labels(tmp_path / "images", tmp_path)
    assert (found.class_ids("coil 1.jpg"), found.class_ids("b.jpg")) == ({2}, frozenset())


def test_roboflow_puts_a_word_of_its_own_beside(tmp_path: Path) -> None:
    """A folder for each split, and two texts that are no labels; of other texts, what they say is nobody's matter."""
    for split in ("train", "valid", "test"):
        write_images(tmp_path / split / "images", f"{split}_jpg.rf.0c1f.jpg")
        write(tmp_path / split / f"labels/{split}_jpg.rf.0c1f.txt", line(1, RING))
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['pit', 'dent']\n")
    write(tmp_path / "README.roboflow.txt", "\nsteel - v1\n==============\n")
    write(tmp_path / "README.dataset.txt", "# steel > 2024\n")
    found = load_labels(tmp_path, tmp_path)
    assert [found.class_ids(record.image_id) for record in found.images] == [{2}] * 3
    write(tmp_path / "notes.txt", "what was done\n")
    with pytest.raises(InputError, match=r"labels without an image: notes\.txt"):
        load_labels(tmp_path, tmp_path)
    found = load_labels(tmp_path, tmp_path, LabelOptions(stray_labels="skip"))
    assert found.left_out == ("left out: labels without an image (1)",)


def test_a_table_stands_for_the_folder_that_it_lies_in(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images/train", "coil/a.jpg")
    write(tmp_path / "labels/train/coil/a.txt", line(1, RING))
    found = load_labels(images, write(tmp_path / "data.yaml", NAMES))
    assert np.array_equal(found.bitmask("coil/a.jpg", HEIGHT, WIDTH) >> 1, by_coco(RING))


def test_each_file_is_read_by_the_nearest_table_above_it(tmp_path: Path) -> None:
    """Numbers are those of that table, and classes of one name are one; a table above no file names no class."""
    for folder, names in (("line1", "pit, scratch"), ("line2", "scratch, pit, dent"), ("backup", "old, older")):
        write(tmp_path / folder / "data.yaml", f"names: [{names}]")
    for folder, lines in (("line1", line(0, RING)), ("line2", line(0, RING)), ("line2/late", line(2, RING))):
        write_images(tmp_path / folder / "images", f"{folder[-1]}.jpg")
        write(tmp_path / folder / f"labels/{folder[-1]}.txt", lines)
    found = load_labels(tmp_path, tmp_path)
    assert found.class_names == ("pit", "scratch", "dent")
    assert {record.image_id: found.class_ids(record.image_id) for record in found.images} == {
        "line1/images/1.jpg": {1},
        "line2/images/2.jpg": {2},
        "line2/late/images/e.jpg": {3},
    }


@pytest.mark.parametrize("root", [".", "labels"])
def test_a_table_in_another_folder_is_not_taken_for_the_one_above_the_files(tmp_path: Path, root: str) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(0, RING))
    write(tmp_path / root / "backup/old.yaml", "names: [scratch, pit]")
    write(tmp_path / "data.yaml", "names: [pit, scratch]")
    found = load_labels(images, tmp_path / root)
    assert (found.class_names, found.class_ids("a.jpg")) == (("pit", "scratch"), {1})


def test_the_only_table_is_for_all_files(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(1, RING))
    write(tmp_path / "tables/one/data.yaml", NAMES)
    write(tmp_path / "tables/two/data.yaml", NAMES)
    assert load_labels(images, tmp_path).class_ids("a.jpg") == {2}
    write(tmp_path / "tables/two/data.yaml", "names: [dent, pit]")
    with pytest.raises(InputError, match=r"labels of an unknown class: class 1, which is not listed \(1 shape\)"):
        load_labels(images, tmp_path)


def test_two_tables_of_one_folder_that_differ_are_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(1, RING))
    write(tmp_path / "data.yaml", NAMES)
    write(tmp_path / "classes.txt", "pit\ndent\n")
    assert load_labels(images, tmp_path).class_ids("a.jpg") == {2}
    write(tmp_path / "classes.txt", "dent\npit\n")
    with pytest.raises(InputError, match=r"data\.yaml and classes\.txt name other classes; remove the wrong one$"):
        load_labels(images, tmp_path)
    assert load_labels(images, tmp_path / "data.yaml").class_names == ("pit", "dent")


@pytest.mark.parametrize("name", ["data.YAML", "DATA.YML", "Classes.TXT"])
def test_a_table_is_told_by_its_ending_in_any_case_of_letters(tmp_path: Path, name: str) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(1, RING))
    write(tmp_path / "labels" / name, "pit\ndent\n" if name == "Classes.TXT" else NAMES)
    assert load_labels(images, tmp_path / "labels").class_names == ("pit", "dent")


@pytest.mark.parametrize(
    ("table", "names", "expected"),
    [
        ("names: [pit, dent]", None, ("pit", "dent")),
        ("names: {1: dent, 0: pit}", None, ("pit", "dent")),
        ("names: {1: dent, 0: pit}", ["dent", "crack", "pit"], ("dent", "crack", "pit")),
        ("names: [pit, dent]", ["0=hole", "1=bump"], ("hole", "bump")),
        (None, ["pit", "dent"], ("pit", "dent")),
        (None, ["1=bump", "0=hole"], ("bump", "hole")),
    ],
)
def test_classes_count_from_0(tmp_path: Path, table: str | None, names: list[str] | None, expected) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(1, RING))
    if table is not None:
        write(tmp_path / "labels/data.yaml", table)
    found = load_labels(images, tmp_path / "labels", LabelOptions(class_names=names))
    assert found.class_names == expected
    (class_id,) = found.class_ids("a.jpg")
    assert expected[class_id - 1] in ("dent", "bump")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no data.yaml or classes.txt that names the classes; give --class-names"),
        ("nc: 2", "no data.yaml or classes.txt"),
        ("names: 3", "data.yaml: `names` is neither a list"),
        ("names: {a: b}", "data.yaml: `names` is neither a list"),
        ("names: [", "data.yaml: not YAML"),
    ],
)
def test_classes_that_cannot_be_told(tmp_path: Path, table: str | None, message: str) -> None:
    images = write_images(tmp_path / "images", "a.jpg")
    write(tmp_path / "labels/a.txt", line(1, RING))
    if table is not None:
        write(tmp_path / "labels/data.yaml", table)
    with pytest.raises(InputError, match=message) as caught:
        load_labels(images, tmp_path / "labels")
    assert "\n" not in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg")
    lines = [
        "0 1 2",
        "pit 0.1 0.1 0.2 0.2 0.3 0.1",
        "0 120 20 300 40 90 70",
        "0 0.1 nan 0.2 0.2 0.3 0.1",
        line(5, RING),
    ]
    write(tmp_path / "labels/a.txt", "\n".join(lines))
    write(tmp_path / "labels/lost.txt", line(0, RING))
    write(tmp_path / "data.yaml", NAMES)
    with pytest.raises(InputError) as caught:
        load_labels(images, tmp_path / "labels")
    text = str(caught.value)
    for expected in (
        "malformed lines: a.txt line 1 (numbers that are no shares of the image's size), a.txt line 2 ('pit 0.1",
        "a.txt line 3 (numbers that are no shares of the image's size), a.txt line 4 (numbers that are no shares",
        "labels without an image: lost.txt",
        "labels of an unknown class: class 5, which is not listed (1 shape)",
        "images without labels: b.jpg",
        "known classes: pit, dent",
    ):
        assert expected in text, text


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "coil/a.jpg", "b.jpg")
    write(tmp_path / "labels/coil/a.txt", line(1, RING) + line(0, [5, 5, 50, 5, 9, 31, 50, 39]))
    write(tmp_path / "labels/b.txt", "")
    write(tmp_path / "data.yaml", NAMES)
    found = load_labels(images, tmp_path / "labels")
    (tmp_path / "out").mkdir()
    write_yolo(str(tmp_path / "out"), ("Riß: pit", "dent"), labelled_images(found))
    again = load_labels(images, tmp_path / "out")
    assert again.class_names == ("Riß: pit", "dent")
    for record in found.images:
        bits = again.bitmask(record.image_id, HEIGHT, WIDTH)
        assert np.array_equal(bits, found.bitmask(record.image_id, HEIGHT, WIDTH))
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text())["names"] == {0: "Riß: pit", 1: "dent"}
