"""Where masks lie and how they are named: beside their images, with a suffix, in a folder per class, in colours."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from steel.errors import InputError
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.labels.sizes import resize_plane
from steel.validation_errors import ValidationErrors
from tests.label_files import problems_of

LEFT = [[9, 0, 0], [9, 0, 0]]  # any value will do for one class; its pixels are the first column
BITS = [[1, 0, 0], [1, 0, 0]]
CLEAN = [[0, 0, 0], [0, 0, 0]]


def image(path: Path, shape: tuple[int, ...] = (2, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(shape, 90, np.uint8))


def mask(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)


def bits(found, image_id: str, size: tuple[int, int] = (2, 3)) -> list[list[int]]:
    return found.bitmask(image_id, *size).tolist()


@pytest.mark.parametrize("suffix", ["_mask", "_GT", "-label", ".seg", "_mask_v2"])
def test_masks_with_a_suffix(tmp_path: Path, suffix: str) -> None:
    for name in ("1", "1_2", "coil/10"):  # numbers after a separator are no suffix
        image(tmp_path / f"images/{name}.jpg")
        mask(tmp_path / f"masks/{name}{suffix}.png", LEFT if name == "1_2" else CLEAN)
    found = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["9=pit"]))
    assert [bits(found, f"{name}.jpg") for name in ("1", "1_2", "coil/10")] == [CLEAN, BITS, CLEAN]


def test_a_suffix_in_a_folder_a_class(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    image(tmp_path / "images/b.jpg")
    mask(tmp_path / "masks/pit/a_mask.png", LEFT)
    mask(tmp_path / "masks/dent/b_mask.png", LEFT)
    found = load_labels(tmp_path / "images", tmp_path / "masks")
    assert found.class_names == ("dent", "pit")
    assert (bits(found, "a.jpg"), bits(found, "b.jpg")) == ([[2, 0, 0], [2, 0, 0]], BITS)


@pytest.mark.parametrize(("of_image", "of_mask"), [("a.jpg", "a.png"), ("a.png", "a_mask.png"), ("a.jpg", "a_GT.bmp")])
def test_masks_beside_their_images(tmp_path: Path, of_image: str, of_mask: str) -> None:
    for folder in ("", "coil/"):
        image(tmp_path / folder / of_image)
        mask(tmp_path / folder / of_mask, LEFT)
    found = load_labels(tmp_path, tmp_path, LabelOptions(class_names=["9=pit"]))
    assert [record.image_id for record in found.images] == [of_image, f"coil/{of_image}"]
    assert [bits(found, record.image_id) for record in found.images] == [BITS, BITS]


def test_a_folder_of_images_alone_holds_no_masks(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    image(tmp_path / "b.png")
    with pytest.raises(InputError, match="no labels that are known there; --labels-format says which of kaggle"):
        load_labels(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            {"a.jpg9": {"filename": "a.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}},
            "VIA.*export it there",
        ),
        (
            {"_via_settings": {}, "_via_img_metadata": {}},
            r"\(VIA\), which is not read; export it there in COCO's format",
        ),
        ([{"image_id": 1, "category_id": 2, "score": 0.9}], "a list of COCO results, .*as `annotations`$"),
    ],
)
def test_json_of_other_tools_is_told_with_what_to_do(tmp_path: Path, value: object, told: str) -> None:
    image(tmp_path / "images/a.jpg")
    (tmp_path / "labels.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=told):
        load_labels(tmp_path / "images", tmp_path / "labels.json")


def make_mvtec(root: Path) -> None:
    """The layout that MVTec AD publishes: test/<kind>/NNN.png, ground_truth/<kind>/NNN_mask.png, none for `good`."""
    for kind in ("crack", "good", "scratch"):
        image(root / f"test/{kind}/000.png")
        if kind != "good":
            mask(root / f"ground_truth/{kind}/000_mask.png", [[255, 0, 0], [255, 0, 0]])


def test_class_folders_as_mvtec_has_them_are_recognised(tmp_path: Path) -> None:
    make_mvtec(tmp_path)
    found = load_labels(tmp_path / "test", tmp_path / "ground_truth")
    assert found.class_names == ("crack", "scratch")
    assert bits(found, "crack/000.png") == BITS
    assert bits(found, "scratch/000.png") == [[2, 0, 0], [2, 0, 0]]
    assert found.class_ids("good/000.png") == frozenset()


def test_a_folder_of_defects_without_masks_is_not_clean(tmp_path: Path) -> None:
    make_mvtec(tmp_path)
    (tmp_path / "ground_truth/scratch/000_mask.png").unlink()
    given = tmp_path / "test", tmp_path / "ground_truth"
    for names in (None, ["crack", "scratch"]):
        with pytest.raises(ValidationErrors) as caught:
            load_labels(*given, LabelOptions(class_names=names))
        assert problems_of(caught) == {"images without a mask": ["scratch/000.png"]}
        assert "--missing-mask clean takes no labels for no defect" in str(caught.value)
    found = load_labels(*given, LabelOptions(missing_mask="clean"))
    assert found.class_names == ("crack",)
    assert [found.class_ids(f"{kind}/000.png") for kind in ("crack", "good", "scratch")] == [
        None,
        frozenset(),
        frozenset(),
    ]


def test_a_class_that_is_called_as_clean_images_are_needs_masks(tmp_path: Path) -> None:
    make_mvtec(tmp_path)
    image(tmp_path / "test/free/000.png")
    with pytest.raises(ValidationErrors) as caught:
        load_labels(tmp_path / "test", tmp_path / "ground_truth", LabelOptions(class_names=["crack", "free"]))
    assert problems_of(caught) == {"images without a mask": ["free/000.png"]}


def test_class_folders_with_masks_beside_the_images(tmp_path: Path) -> None:
    """As the magnetic-tile data set has it: MT_Blowhole/Imgs/x.jpg and x.png, also black ones for MT_Free."""
    for kind, rows in (("MT_Blowhole", LEFT), ("MT_Free", CLEAN)):
        image(tmp_path / f"{kind}/Imgs/x.jpg")
        mask(tmp_path / f"{kind}/Imgs/x.png", rows)
    found = load_labels(
        tmp_path, tmp_path, LabelOptions(format="class-folders", class_names=["MT_Blowhole", "MT_Crack"])
    )
    assert [bits(found, f"{kind}/Imgs/x.jpg") for kind in ("MT_Blowhole", "MT_Free")] == [BITS, CLEAN]
    other = load_labels(tmp_path, tmp_path, LabelOptions(format="class-folders", class_names=["MT_Crack"]))
    with pytest.raises(InputError, match=r"masks with unknown values \(known are 0; --class-names\): .*\(values 9\)"):
        other.bitmask("MT_Blowhole/Imgs/x.jpg", 2, 3)


def test_colours_by_a_table(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    image(tmp_path / "images/b.jpg")
    mask(tmp_path / "masks/a.png", [[[255, 0, 0], [0, 0, 0], [0, 128, 0]], [[255, 0, 0], [0, 0, 0], [9, 9, 9]]])
    palette = Image.fromarray(np.array([[0, 1, 1], [0, 0, 2]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 128, 0] + [7] * 759)
    palette.save(tmp_path / "masks/b.png")
    names = ["#ff0000=pit", "#008000=dent"]
    found = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=names, ignore_value=0x090909))
    assert bits(found, "a.jpg") == [[1, 0, 2], [1, 0, 128]]
    assert bits(found, "b.jpg") == [[0, 1, 1], [0, 0, 2]]
    strict = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=names))
    with pytest.raises(
        InputError, match=r"\(known are #000000, #ff0000, #008000; --class-names '#ff.*\(values #090909\)"
    ):
        strict.bitmask("a.jpg", 2, 3)
    with pytest.raises(
        InputError, match=r"true colours or with transparency \(--class-names '#ff0000=NAME.*\): .*a\.png"
    ):
        load_labels(tmp_path / "images", tmp_path / "masks")


def test_black_is_the_background_unless_a_class_has_it(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    mask(tmp_path / "masks/a.png", [[[255, 255, 255], [0, 0, 0], [255] * 3]] * 2)
    found = load_labels(
        tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["#000000=pit", "#ffffff=steel"])
    )
    assert bits(found, "a.jpg") == [[2, 1, 2]] * 2


def test_mixed_ways_to_name_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give all of them a colour"):
        load_labels(tmp_path, tmp_path, LabelOptions(class_names=["#ff0000=pit", "2=dent"]))


# --- what real masks are like, and the option that takes them ---


def test_another_size_is_taken_by_its_option_and_another_shape_is_not(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg", (4, 6))
    image(tmp_path / "images/b.jpg", (6, 4))
    mask(tmp_path / "masks/a.png", LEFT)
    mask(tmp_path / "masks/b.png", LEFT)
    found = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["9=pit"]))
    with pytest.raises(InputError, match=r"another size than their image \(--resize-masks brings them to it\): .*2x3"):
        found.bitmask("a.jpg", 4, 6)
    resized = load_labels(
        tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["9=pit"], resize_masks=True)
    )
    assert bits(resized, "a.jpg", (4, 6)) == [[1, 1, 0, 0, 0, 0]] * 4
    with pytest.raises(InputError, match=r"another shape than their image \(are they .*\?\): .*2x3, its image 6x4"):
        resized.bitmask("b.jpg", 6, 4)
    with pytest.raises(InputError, match=r"masks turned by a quarter against their image .*2x3, its image 3x2"):
        resized.bitmask("b.jpg", 3, 2)


def test_jpeg_masks_are_taken_with_a_threshold(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png", (16, 16))
    square = np.zeros((16, 16), np.uint8)
    square[:, :8] = 255
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks/a.jpg"), square)
    with pytest.raises(InputError, match=r"masks in a lossy format \(--mask-threshold T takes values from T up"):
        load_labels(tmp_path / "images", tmp_path / "masks")
    found = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(mask_threshold=128))
    assert np.array_equal(found.bitmask("a.png", 16, 16), square // 255)


def test_empty_files_are_missing_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"images/{name}.jpg")
    mask(tmp_path / "masks/a.png", LEFT)
    (tmp_path / "masks/b.png").touch()
    with pytest.raises(InputError, match=r"empty mask files \(--missing-mask clean takes no labels .*\): b\.png"):
        load_labels(tmp_path / "images", tmp_path / "masks")
    found = load_labels(
        tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["9=pit"], missing_mask="clean")
    )
    assert (bits(found, "a.jpg"), bits(found, "b.jpg")) == (BITS, CLEAN)


def test_other_capitals_are_taken_by_their_option(tmp_path: Path) -> None:
    image(tmp_path / "images/Coil1/A.JPG")
    mask(tmp_path / "masks/coil1/a.png", LEFT)
    found = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["9=pit"], any_case=True))
    assert bits(found, "Coil1/A.JPG") == BITS


def test_stray_masks_are_counted_and_left_out_by_their_option(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    for name in ("pit/a", "dent/a", "pit/lost", "pit/lost2"):
        mask(tmp_path / f"masks/{name}.png", LEFT)
    with pytest.raises(InputError) as caught:
        load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["pit"]))
    line = str(caught.value)
    assert "labels of an unknown class: dent/a.png" in line and "labels without an image: pit/lost.png" in line
    assert "known classes: pit" in line and "--stray-labels skip leaves them out" in line
    found = load_labels(tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["pit"], stray_labels="skip"))
    assert bits(found, "a.jpg") == BITS
    assert found.left_out == ("left out: labels of an unknown class (1)", "left out: labels without an image (2)")


def test_stray_rows_of_a_csv(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    csv = tmp_path / "train.csv"
    csv.write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 2\na.jpg,7,1 1\nlost.jpg,1,1 1\n")
    with pytest.raises(InputError, match=r"known classes: 1 \(pit\); --class-names .*--stray-labels skip"):
        load_labels(tmp_path / "images", csv, LabelOptions(class_names=["pit"]))
    found = load_labels(tmp_path / "images", csv, LabelOptions(class_names=["pit"], stray_labels="skip"))
    assert bits(found, "a.jpg") == BITS
    assert found.left_out == ("left out: labels of an unknown class (1)", "left out: labels without an image (1)")


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (300, 200)])
def test_no_defect_is_too_small_for_a_mask_that_is_resized(size: tuple[int, int]) -> None:
    """Wherever two pixels of a large mask lie, some of the small one touch them; others are as they were."""
    random = np.random.default_rng(3)
    for _ in range(30):
        plane = np.zeros((256, 256), np.uint8)
        top, left = random.integers(0, 254, 2)
        plane[top : top + 2, left : left + 2] = 1
        resized = resize_plane(plane, *size)
        assert resized.dtype == np.uint8 and 0 < resized.sum() <= max(9, 4 * 256 * 256 / (size[0] * size[1]))
        rows, columns = np.nonzero(resized)
        assert abs((rows + 0.5) * 256 / size[0] - (top + 1)).max() <= 256 / size[0] + 2
        assert abs((columns + 0.5) * 256 / size[1] - (left + 1)).max() <= 256 / size[1] + 2
    assert not resize_plane(np.zeros((256, 256), np.uint8), *size).any()


def test_a_small_defect_beside_a_large_one_is_not_lost_either() -> None:
    """At half the size centres lie in odd rows and columns; what touches one over a corner has it."""
    plane = np.zeros((80, 120), np.uint8)
    plane[10:40, 10:40] = 1
    plane[60, 80] = plane[60, 90:96] = 1
    plane[71, 21] = plane[72, 22] = 1
    expected = np.zeros((40, 60), np.uint8)
    expected[5:20, 5:20] = 1
    expected[30, 40] = expected[30, 45:48] = 1
    expected[35, 10] = 1
    resized = resize_plane(plane, 40, 60)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized, expected)
    assert np.array_equal(resize_plane(expected, 80, 120), np.kron(expected, np.ones((2, 2), np.uint8)))
