"""Labels, whatever their format: names of classes, where images and labels lie, and what cannot be used."""

import os
import pickle
import unicodedata
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from steel.errors import InputError
from steel.labels.formats import FORMATS
from steel.labels.labels import LabelledImage
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.labels.place import Place
from steel.validation_errors import Issue, ValidationErrors
from tests.label_files import ROWS, write_images, write_mask, write_text

REAL_DATA = os.environ.get("STEEL_REAL_DATA")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "the name a stands there twice"),
        (["1=a", "1=b"], "the number 1 stands there twice"),
        (["1=a", "b"], "all of them a number"),
        (["a", " "], "an empty name"),
        ([], "no classes"),
        ([f"c{k}" for k in range(17)], "17 classes, but at most 16"),
    ],
)
def test_class_names_that_cannot_be(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        load_labels(tmp_path, "train.csv", LabelOptions(class_names=names))


def write_labels_of(form, folder, planes, classes=("pit",)):
    """Labels of images of 40x60 in a format, by its own writer; returns where they are."""
    folder.mkdir()
    ending = {"coco": ".json", "cvat": ".xml", "kaggle": ".csv"}
    out = folder / f"all{ending[form]}" if form in ending else folder
    FORMATS[form].write(str(out), classes, [LabelledImage(name, 40, 60, found) for name, found in planes.items()])
    return out


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "yolo", "kaggle", "masks"])
def test_accents_are_the_same_however_they_are_written(tmp_path, form, forms):
    """macOS writes the u and the dots of an umlaut as two characters in the names of files."""
    there, named = (unicodedata.normalize(one, "Prüf/Öl, 1") for one in forms)
    images = write_images(tmp_path / "images", f"{there}.png", "b.png", shape=(40, 60))
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:30] = 1
    labels = tmp_path / "labels"
    if form == "masks":
        for stem, rows in ((named, mask), ("b", 0 * mask)):
            write_mask(labels / f"{stem}.png", rows.tolist())
    else:
        labels = write_labels_of(form, labels, {f"{named}.png": {1: mask}, "b.png": {}})
    found = load_labels(images, labels)
    np.testing.assert_array_equal(found.bitmask(f"{there}.png", 40, 60), mask)


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "yolo", "masks", "class-folders"])
def test_accents_of_class_names_are_the_same_however_they_are_written(tmp_path, form, forms):
    there, given = (unicodedata.normalize(one, "Wölbung") for one in forms)
    stem = f"{given}/a" if form == "class-folders" else "a"
    images = write_images(tmp_path / "images", f"{stem}.png", "good/b.png", shape=(40, 60))
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:30] = 1
    labels = tmp_path / "labels"
    if form in ("masks", "class-folders"):
        write_mask(labels / f"{there}/a.png", mask.tolist())
    else:
        labels = write_labels_of(form, labels, {f"{stem}.png": {1: mask}, "good/b.png": {}}, (there,))
    options = LabelOptions(class_names=[given], missing_mask="clean")
    found = load_labels(images, labels, options)
    assert (found.format, found.class_names) == (form, (given,))
    np.testing.assert_array_equal(found.bitmask(f"{stem}.png", 40, 60), mask)
    assert load_labels(images, labels, LabelOptions(missing_mask="clean")).class_names == ("Wölbung",)


def test_a_class_whose_accents_are_written_in_two_ways_is_one(tmp_path):
    images = write_images(tmp_path / "images", "a/1.png", "b/1.png", shape=(40, 60))
    for folder, form in (("a", "NFC"), ("b", "NFD")):
        planes = {f"{folder}/1.png": {1: np.ones((40, 60), np.uint8)}}
        write_labels_of("labelme", tmp_path / folder, planes, (unicodedata.normalize(form, "Wölbung"),))
        os.renames(tmp_path / folder / folder, tmp_path / "labels" / folder)
    found = load_labels(images, tmp_path / "labels")
    assert (found.class_names, found.class_ids("a/1.png"), found.class_ids("b/1.png")) == (("Wölbung",), {1}, {1})


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "yolo", "kaggle"])
def test_marks_of_the_order_of_bytes_are_no_text(tmp_path, form):
    """Editors on Windows put them before texts."""
    images = write_images(tmp_path / "images", "a.png", "b.png", shape=(40, 60))
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 10:30] = 1
    labels = write_labels_of(form, tmp_path / "labels", {"a.png": {1: mask}, "b.png": {}})
    for file in (path for path in (tmp_path / "labels").rglob("*") if path.is_file()):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    np.testing.assert_array_equal(load_labels(images, labels).bitmask("a.png", 40, 60), mask)


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "yolo", "kaggle"])
def test_labels_of_an_image_that_is_gone_are_not_those_of_its_namesake_in_another_folder(tmp_path, form):
    """Line 2's image 0001 was removed and its labels were not; line 1's was never labelled."""
    images = write_images(tmp_path / "images", "line 1/0001.png", "line 1/0002.png", "line 2/0002.png", shape=(40, 60))
    mask = np.ones((40, 60), np.uint8)
    labels = write_labels_of(
        form, tmp_path / "labels", {"line 1/0002.png": {}, "line 2/0001.png": {1: mask}, "line 2/0002.png": {1: mask}}
    )
    with pytest.raises(ValidationErrors, match=r"labels without an image: (labels/)?line 2/0001"):
        load_labels(images, labels)
    found = load_labels(images, labels, LabelOptions(missing_mask="clean", stray_labels="skip"))
    assert [found.class_ids(f"line {image}.png") for image in ("1/0001", "1/0002", "2/0002")] == [set(), set(), {1}]


def test_two_images_whose_names_look_the_same_are_told_apart(tmp_path):
    names = [unicodedata.normalize(form, "Öl.png") for form in ("NFC", "NFD")]
    images = write_images(tmp_path, *names, shape=(1, 3))
    write_text(tmp_path / "train.csv", f"ImageId,ClassId,EncodedPixels\n{names[0]},1,1 1\n{names[1]},1,2 1\n")
    found = load_labels(images, tmp_path / "train.csv")
    assert [found.bitmask(name, 1, 3).tolist() for name in names] == [[[1, 0, 0]], [[0, 1, 0]]]


def test_masks_among_the_images_are_no_images(tmp_path):
    write_images(tmp_path, "a.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 0]])
    found = load_labels(tmp_path, tmp_path / "masks")
    assert [record.image_id for record in found.images] == ["a.jpg"]


def test_a_folder_that_holds_all_images_cannot_be_that_of_their_masks(tmp_path):
    write_images(tmp_path / "masks", "a.png")
    with pytest.raises(InputError, match=rf"{tmp_path}: no images there but those in {tmp_path}/masks, which"):
        load_labels(tmp_path, tmp_path / "masks")


@pytest.mark.parametrize("named", ["coco", "auto"])
@pytest.mark.parametrize("splits", [("train",), ("train", "valid")])
def test_images_beside_their_labels_in_a_folder_below_are_images(tmp_path, named, splits):
    """Roboflow's layout, where `--images` is the whole set and `--labels` one split."""
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    for split in splits:
        write_images(tmp_path / split, f"{split}_jpg.rf.0c1f.jpg")
    labelled = LabelledImage("train_jpg.rf.0c1f.jpg", 4, 6, {1: mask})
    FORMATS["coco"].write(str(tmp_path / "train/_annotations.coco.json"), ("pit",), [labelled])
    options = LabelOptions(format=named, missing_mask="clean")
    found = load_labels(tmp_path, tmp_path / "train", options)
    assert [record.image_id for record in found.images] == [f"{split}/{split}_jpg.rf.0c1f.jpg" for split in splits]
    np.testing.assert_array_equal(found.bitmask("train/train_jpg.rf.0c1f.jpg", 4, 6), mask)


def test_images_and_masks_by_url(tmp_path):
    write_images(tmp_path / "images", "coil/a.png", "b.png")
    write_mask(tmp_path / "masks/coil/a.png", [[0, 1, 0, 0, 0, 2]] * 4)
    store = fsspec.filesystem("memory")
    root = f"memory://annotations-{uuid.uuid4().hex}"
    store.put(f"{tmp_path}/", f"{root}/", recursive=True)
    store.pipe(f"{root}/train.csv", (ROWS + "coil/a.png,1,5 4\n").encode())
    found = load_labels(f"{root}/images", f"{root}/train.csv")
    assert [record.image_id for record in found.images] == ["b.png", "coil/a.png"]
    assert found.bitmask("coil/a.png", 4, 6)[:, 1].tolist() == [1, 1, 1, 1]
    masked = load_labels(f"{root}/images", f"{root}/masks", LabelOptions(missing_mask="clean"))
    assert masked.bitmask("coil/a.png", 4, 6)[0].tolist() == [0, 1, 0, 0, 0, 2]
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        load_labels(f"{root}/images", f"{root}/gone.csv")


@pytest.mark.parametrize("url", ["https://a/b/Train.CSV?sig=x/y.json", "https://a/b/train.csv", "s3://a/train?1.csv"])
def test_labels_by_url_are_known_by_their_name(url: str) -> None:
    place = Place(url, (), (), is_file=True, has_images=False)
    assert place.ending(".csv") == [url] and place.ending(".xml") == []


def test_folders_and_options_that_cannot_be(tmp_path):
    csv = write_text(tmp_path / "train.csv", ROWS + "a.png,1,1 1\n")
    with pytest.raises(InputError, match="no such folder"):
        load_labels(tmp_path / "none", csv)
    with pytest.raises(InputError, match="no images there"):
        load_labels(tmp_path, csv)
    images = write_images(tmp_path / "images", "a.png", "b.png", "b.jpg")
    with pytest.raises(ValidationErrors, match=r"differ in their extension alone: b\.jpg, b\.png \(rename"):
        load_labels(images, csv)
    (images / "b.jpg").unlink()
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        load_labels(images, tmp_path / "gone.csv")
    with pytest.raises(InputError, match="--ignore-value is for masks, not for labels in the format kaggle"):
        load_labels(images, csv, LabelOptions(ignore_value=255))


def test_problems_cross_process_boundaries():
    error = pickle.loads(pickle.dumps(ValidationErrors([Issue("odd things", "a"), Issue("odd things", "b")], "here")))
    assert error.issues == (Issue("odd things", "a"), Issue("odd things", "b"))
    assert str(error) == "odd things: a, b (here)"


def test_problems_are_told_in_words_that_are_right_for_one_and_for_many():
    one, many = Issue("odd things", "a"), [Issue("labels of an unknown class", str(k)) for k in range(1234)]
    assert str(ValidationErrors([one])) == "odd things: a"
    told = "labels of an unknown class: 0, 1, 2, 3, 4 and 1,229 more"
    assert str(ValidationErrors([*many, one])) == f"{told}; odd things: a"


@pytest.mark.parametrize(("name", "ending"), [("coco", ".json"), ("labelme", ".json"), ("cvat", ".xml")])
def test_a_format_that_is_named_needs_a_file_of_it(tmp_path: Path, name: str, ending: str) -> None:
    """Nothing was read of another file, and its images were taken for clean."""
    images = write_images(tmp_path / "images", "a.jpg")
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 1\n")
    options = LabelOptions(format=name, class_names=["pit"], missing_mask="clean")
    for place in (tmp_path / "train.csv", images):
        with pytest.raises(InputError, match=rf"{place}: --labels-format {name} needs a file that ends in \{ending}$"):
            load_labels(images, place, options)


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
def test_real_annotations():
    root = Path(str(REAL_DATA))
    sample = root / "severstal_sample"
    strips = load_labels(sample / "train_images", sample / "train.csv")
    assert strips.class_names == ("class 1", "class 2", "class 3", "class 4")
    clean = 0
    for record in strips.images:
        bitmask = strips.bitmask(record.image_id, 256, 1600)
        assert {k + 1 for k in range(4) if (bitmask >> k & 1).any()} == strips.class_ids(record.image_id)
        clean += not bitmask.any()
    assert 0 < clean < len(strips.images)

    neu = root / "neu_seg"
    plates = load_labels(neu / "images", neu / "masks", LabelOptions(class_names=["inclusion", "patches", "scratches"]))
    assert len(plates.images) == 3618
    values = {int(v) for r in plates.images[::40] for v in np.unique(plates.bitmask(r.image_id, 200, 200))}
    assert values == {0, 1, 2, 4}
