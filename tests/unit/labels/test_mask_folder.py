"""Folders of masks: label maps and a folder a class, and every mistake told at once."""

import numpy as np
import pytest
from PIL import Image

from steel.errors import InputError
from steel.labels.labels import labelled_images
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.validation_errors import ValidationErrors
from tests.image_files import png
from tests.label_files import problems_of, write_images, write_mask
from tests.web_folder import serve_folder


@pytest.mark.parametrize("palette", [False, True])
def test_label_maps(tmp_path, palette):
    images = write_images(tmp_path / "images", "a.jpg", "coil/b.jpg", shape=(2, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 2], [0, 0, 3]], palette)
    write_mask(tmp_path / "masks/coil/b.png", [[0, 0, 0], [0, 0, 0]], palette)
    found = load_labels(images, tmp_path / "masks")
    assert found.class_names == ("class 1", "class 2", "class 3")
    assert found.bitmask("a.jpg", 2, 3).tolist() == [[0, 1, 2], [0, 0, 4]]
    assert not found.bitmask("coil/b.jpg", 2, 3).any()
    assert found.class_ids("a.jpg") is None


@pytest.mark.parametrize("untold", [(), ("Content-Length",)])
def test_masks_on_a_web_server_are_not_taken_for_empty_files(tmp_path, untold):
    """Though listings there hold no sizes, and some servers tell none at all."""
    pytest.importorskip("aiohttp")
    images = write_images(tmp_path / "images", "a.png", "b.png", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 2]])
    with serve_folder(tmp_path, *untold) as url:
        found = load_labels(images, f"{url}/masks", LabelOptions(missing_mask="clean"))
        assert (found.bitmask("a.png", 1, 3).tolist(), found.bitmask("b.png", 1, 3).any()) == ([[0, 1, 2]], False)
        write_mask(tmp_path / "masks/b.png", [[0, 0, 0]])
        assert load_labels(images, f"{url}/masks").bitmask("a.png", 1, 3).tolist() == [[0, 1, 2]]
    (tmp_path / "masks/b.png").write_bytes(b"")
    with serve_folder(tmp_path) as url:
        with pytest.raises(ValidationErrors, match=r"empty mask files .*: b\.png"):
            load_labels(images, f"{url}/masks")
        assert not load_labels(images, f"{url}/masks", LabelOptions(missing_mask="clean")).bitmask("b.png", 1, 3).any()


def test_ignored_pixels_take_the_top_bit(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", shape=(1, 4))
    write_mask(tmp_path / "masks/a.png", [[0, 255, 2, 1]])
    found = load_labels(images, tmp_path / "masks", LabelOptions(ignore_value=255))
    assert (found.ignore, found.ignore_bit) == (True, 7)
    assert found.bitmask("a.jpg", 1, 4).tolist() == [[0, 128, 2, 1]]
    names = [f"c{k}" for k in range(8)]
    wide = load_labels(images, tmp_path / "masks", LabelOptions(ignore_value=255, class_names=names))
    assert wide.ignore_bit == 15
    assert wide.bitmask("a.jpg", 1, 4).tolist() == [[0, 1 << 15, 2, 1]]
    with pytest.raises(InputError, match="at most 15 classes"):
        load_labels(
            images, tmp_path / "masks", LabelOptions(ignore_value=255, class_names=[f"c{k}" for k in range(16)])
        )


def test_a_pixel_that_one_class_ignores_is_of_no_other(tmp_path):
    images = write_images(tmp_path / "images", "a.png", shape=(1, 4))
    write_mask(tmp_path / "masks/dent/a.png", [[0, 128, 128, 255]])
    write_mask(tmp_path / "masks/pit/a.png", [[255, 255, 0, 255]])
    found = load_labels(images, tmp_path / "masks", LabelOptions(ignore_value=128))
    assert found.bitmask("a.png", 1, 4).tolist() == [[2, 128, 128, 3]]
    (image,) = labelled_images(found)
    assert {k: plane.tolist() for k, plane in image.planes.items()} == {
        0: [[0, 1, 1, 0]],
        1: [[0, 0, 0, 1]],
        2: [[1, 0, 0, 1]],
    }


@pytest.mark.parametrize("names", [None, ["crack"]])
def test_masks_of_0_and_255_are_one_class(tmp_path, names):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 255, 0]])
    Image.fromarray(np.array([[0, 0, 255]], np.uint8)).convert("1").save(tmp_path / "masks/b.png")  # 1 bit a pixel
    if names is None:
        write_mask(tmp_path / "masks/b.png", [[0, 0, 255]])
    found = load_labels(images, tmp_path / "masks", LabelOptions(class_names=names))
    assert found.class_names == (("defect",) if names is None else ("crack",))
    assert [found.bitmask(i, 1, 3).tolist() for i in ("a.jpg", "b.jpg")] == [[[0, 1, 0]], [[0, 0, 1]]]


def test_any_pixel_values_can_be_classes(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 40, 3000]])
    write_mask(tmp_path / "masks/b.png", [[40, 40, 0]])
    found = load_labels(images, tmp_path / "masks")
    assert found.class_names == ("class 40", "class 3000")
    assert found.bitmask("a.jpg", 1, 3).tolist() == [[0, 1, 2]]
    named = load_labels(images, tmp_path / "masks", LabelOptions(class_names=["3000=pit", "40=dent"]))
    assert named.bitmask("a.jpg", 1, 3).tolist() == [[0, 2, 1]]


def test_few_levels_of_gray_keep_their_values(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 4))
    (tmp_path / "masks").mkdir()
    for name, depth, pixels in (("a", 2, b"\x1b"), ("b", 4, b"\x01\x23")):  # 0 1 2 3 in both
        (tmp_path / f"masks/{name}.png").write_bytes(png((4, 1, depth, 0), b"\0" + pixels))
    found = load_labels(images, tmp_path / "masks")
    assert [found.bitmask(i, 1, 4).tolist() for i in ("a.jpg", "b.jpg")] == [[[0, 1, 2, 4]]] * 2


def test_a_folder_a_class_lets_classes_overlap(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "coil/b.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/scratch/a.png", [[0, 255, 255]])
    write_mask(tmp_path / "masks/pit/a.png", [[7, 1, 0]])
    write_mask(tmp_path / "masks/pit/coil/b.png", [[0, 1, 0]])
    found = load_labels(images, tmp_path / "masks", LabelOptions(ignore_value=7))
    assert found.class_names == ("pit", "scratch")
    assert found.bitmask("a.jpg", 1, 3).tolist() == [[128, 3, 2]]
    assert found.bitmask("coil/b.jpg", 1, 3).tolist() == [[0, 1, 0]]
    other = load_labels(
        images, tmp_path / "masks", LabelOptions(class_names=["scratch", "dent", "pit"], ignore_value=7)
    )
    assert other.bitmask("a.jpg", 1, 3).tolist() == [[128, 5, 1]]
    with pytest.raises(ValidationErrors, match=r"labels of an unknown class: scratch/a\.png"):
        load_labels(images, tmp_path / "masks", LabelOptions(class_names=["pit"]))


def test_a_mask_beside_the_class_folders_is_of_an_unknown_class(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 3))
    for name in ("pit/a.png", "pit/b.png", "scratch/b.png", "a.png"):
        write_mask(tmp_path / "masks" / name, [[0, 1, 0]])
    with pytest.raises(ValidationErrors, match=r"labels of an unknown class: a\.png"):
        load_labels(images, tmp_path / "masks")


def test_class_folders_with_numbers_are_ordered_by_size(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", shape=(1, 3))
    for k in (10, 9, 1):
        write_mask(tmp_path / f"masks/{k}/a.png", [[0, 1, 1]])
    assert load_labels(images, tmp_path / "masks").class_names == ("1", "9", "10")


def test_all_mask_problems_are_told_at_once(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", shape=(1, 3))
    for name in ("a.png", "a.tif", "extra.png"):
        write_mask(tmp_path / "masks" / name, [[0, 1, 0]])
    write_images(tmp_path / "masks", "b.jpg", shape=(1, 3))
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, tmp_path / "masks")
    assert problems_of(error) == {
        "second masks for one image": ["a.tif"],
        "masks in a lossy format (--mask-threshold T takes values from T up as inside)": ["b.jpg"],
        "labels without an image": ["extra.png"],
        "images without a mask": ["c.jpg"],
    }


@pytest.mark.parametrize("name", ["meta.yaml", "dataset.yml"])
def test_a_table_beside_masks_is_no_yolo(tmp_path, name):
    write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(2, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 2], [0, 0, 0]])
    (tmp_path / "masks" / name).write_text("made: 2026\n")
    options = LabelOptions(class_names=["pit", "dent"], missing_mask="clean")
    found = load_labels(tmp_path / "images", tmp_path / "masks", options)
    assert found.bitmask("a.jpg", 2, 3).tolist() == [[0, 1, 2], [0, 0, 0]]


def test_a_missing_mask_can_mean_clean(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 0]])
    with pytest.raises(ValidationErrors, match=r"images without a mask: b\.jpg"):
        load_labels(images, tmp_path / "masks")
    found = load_labels(images, tmp_path / "masks", LabelOptions(missing_mask="clean"))
    assert found.class_ids("b.jpg") == frozenset()
    assert not found.bitmask("b.jpg", 1, 3).any()


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([[0, 1, 0], [0, 0, 0]], "masks of another size than their image (--resize-masks brings them to it)"),
        ([[0, 3, 9]], "masks with unknown values (known are 0, 1, 2; --class-names)"),
        (
            [[[9, 0, 0], [0, 0, 0], [0, 0, 0]]],
            "masks in true colours or with transparency (--class-names '#ff0000=NAME,...' says what each colour means)",
        ),
    ],
)
def test_masks_that_cannot_be_used_show_when_they_are_read(tmp_path, rows, kind):
    images = write_images(tmp_path / "images", "a.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", rows)
    found = load_labels(images, tmp_path / "masks", LabelOptions(class_names=["pit", "scratch"]))
    with pytest.raises(ValidationErrors) as error:
        found.bitmask("a.jpg", 1, 3)
    assert [issue.kind for issue in error.value.issues] == [kind]


def test_a_damaged_mask_is_named(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 0]])
    data = (tmp_path / "masks/a.png").read_bytes()
    (tmp_path / "masks/a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValidationErrors, match=r"unreadable masks: .*a\.png"):
        load_labels(images, tmp_path / "masks")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[0, 1, 255]], {}, "255 among them: ignore it"),
        ([list(range(1, 31))], {}, "30 values besides 0, at most 16"),
        ([[0, 0, 0]], {}, "no classes"),
        ([[0, 1, 0]], {"ignore_value": 0}, "cannot be 0"),
        ([[0, 1, 2]], {"ignore_value": 2, "class_names": ["a", "b"]}, "0 is the background, 2 to be ignored"),
        ([[0, 1, 2]], {"class_names": ["0=a", "1=b", "2=c"]}, "something else: 0 is the background"),
    ],
)
def test_label_maps_whose_classes_cannot_be_told(tmp_path, rows, options, message):
    images = write_images(tmp_path / "images", "a.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", rows)
    with pytest.raises(InputError, match=message):
        load_labels(images, tmp_path / "masks", LabelOptions(**options))


def test_one_class_with_both_1_and_255_is_refused(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 255]])
    found = load_labels(images, tmp_path / "masks", LabelOptions(class_names=["crack"]))
    with pytest.raises(ValidationErrors, match="is 255 the ignored one"):
        found.bitmask("a.jpg", 1, 3)
    ignoring = load_labels(images, tmp_path / "masks", LabelOptions(class_names=["crack"], ignore_value=255))
    assert ignoring.bitmask("a.jpg", 1, 3).tolist() == [[0, 1, 128]]
