"""Values of mask files: what becomes of each kind, and no label is lost without a word."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from steel.errors import InputError
from steel.labels.labels import Labels
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.validation_errors import ValidationErrors

SOFT = [[0, 3, 127, 128, 255]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.full((1, 5), 90, np.uint8))
    return tmp_path / "images"


def write(path: Path, values: list[list[float]], kind: type) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.array(values, kind), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    return path


def bitmask(found: Labels) -> list[list[int]]:
    return found.bitmask("a.jpg", 1, 5).tolist()


def problem_of(images: Path, **options: object) -> str:
    """The one issue of the mask of `a.jpg`, found when masks are matched or when they are read."""
    with pytest.raises(ValidationErrors) as error:
        load_labels(images, images.parent / "masks", LabelOptions(**options)).bitmask("a.jpg", 1, 5)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    (issue,) = error.value.issues
    return f"{issue.kind}: {issue.name}"


@pytest.mark.parametrize("names", [None, ["pit"], ["pit", "scratch"]])
@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([[0, 0.99, 1, 0.5, 0]], np.float32, "2 values that are not whole numbers from 0 to 65535, such as 0.99"),
        ([[0, np.nan, 1, 1, 0]], np.float32, "1 values that are not whole numbers from 0 to 65535, such as nan"),
        ([[0, -1, 1, 1, -1]], np.int32, "2 values that are not whole numbers from 0 to 65535, such as -1"),
        ([[0, 65536, 1, 1, 1]], np.int32, "1 values that are not whole numbers from 0 to 65535, such as 65536"),
    ],
)
def test_values_that_are_no_labels_are_refused_by_name(images, values, kind, found, names) -> None:
    path = write(images.parent / "masks/a.tif", values, kind)
    message = problem_of(images, class_names=names)
    hint = "for one class, --mask-threshold T takes values from T up as inside"
    assert message == f"masks with unusable values ({hint}): {path} ({found})"


def test_values_that_are_no_labels_are_refused_in_a_folder_a_class(images: Path) -> None:
    path = write(images.parent / "masks/pit/a.tif", [[0, 0.99, 1, 1, 0]], np.float32)
    assert f"as inside): {path} (1 values" in problem_of(images)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.uint16, np.uint8])
def test_whole_numbers_of_any_type_are_labels(images: Path, kind: type) -> None:
    write(images.parent / "masks/a.tif", [[0, 1, 2, 2, 0]], kind)
    assert bitmask(load_labels(images, images.parent / "masks")) == [[0, 1, 2, 2, 0]]


def test_single_bits_and_palettes_are_labels(images: Path) -> None:
    (images.parent / "masks").mkdir()
    bits = Image.fromarray(np.array([[0, 0, 255, 255, 0]], np.uint8)).convert("1", dither=Image.Dither.NONE)
    indices = Image.fromarray(np.array([[0, 0, 1, 1, 0]], np.uint8), "P")
    indices.putpalette([200, 0, 0, 0, 200, 0] + [9] * 762)
    for name, image in (("a.png", bits), ("a.tif", bits), ("a.bmp", bits), ("a.png", indices), ("a.tif", indices)):
        path = images.parent / "masks" / name
        image.save(path)
        assert bitmask(load_labels(images, path.parent, LabelOptions(class_names=["pit"]))) == [[0, 0, 1, 1, 0]], name
        path.unlink()


# --- soft edges ---


@pytest.mark.parametrize(("names", "folder"), [(["pit"], ""), (None, "pit/")])
def test_soft_edges_are_refused_and_the_option_is_named(images: Path, names, folder: str) -> None:
    path = write(images.parent / f"masks/{folder}a.png", SOFT, np.uint8)
    message = problem_of(images, class_names=names)
    assert message.startswith("masks with unknown values (")
    assert f"--mask-threshold T takes values from T up as inside): {path} (values 3, 127, 128" in message


@pytest.mark.parametrize("values", [SOFT, [[7 * k for k in range(36)]]])
def test_soft_edges_of_unnamed_classes_are_refused_and_the_option_is_named(images: Path, values) -> None:
    write(images.parent / "masks/a.png", values, np.uint8)
    with pytest.raises(InputError, match="one class with soft edges, --mask-threshold T"):
        load_labels(images, images.parent / "masks")


def test_of_several_classes_no_threshold_is_offered(images: Path) -> None:
    write(images.parent / "masks/a.png", SOFT, np.uint8)
    assert "threshold" not in problem_of(images, class_names=["pit", "scratch"])


@pytest.mark.parametrize(
    ("values", "kind", "threshold", "inside"),
    [
        (SOFT, np.uint8, 128, [[0, 0, 0, 1, 1]]),
        (SOFT, np.uint8, 127.5, [[0, 0, 0, 1, 1]]),
        (SOFT, np.uint8, 1, [[0, 1, 1, 1, 1]]),
        ([[0, 0.49, 0.5, 0.99, -2]], np.float32, 0.5, [[0, 0, 1, 1, 0]]),
        ([[0, 999, 1000, 65535, 1]], np.uint16, 1000, [[0, 0, 1, 1, 0]]),
    ],
)
@pytest.mark.parametrize("folder", ["", "pit/"])
def test_a_threshold_says_what_is_inside(images: Path, values, kind, threshold, inside, folder: str) -> None:
    write(images.parent / f"masks/{folder}a.tif", values, kind)
    found = load_labels(images, images.parent / "masks", LabelOptions(mask_threshold=threshold))
    assert found.class_names == (("pit",) if folder else ("defect",))
    assert bitmask(found) == inside


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_single_bits_and_palettes_under_a_threshold_are_the_grays_that_are_seen(images: Path, name: str) -> None:
    """Stored they are 0 and 1, which no threshold of grays reaches."""
    (images.parent / "masks").mkdir()
    gray = Image.fromarray(np.array([[0, 0, 255, 200, 0]], np.uint8))
    indices = Image.fromarray(np.array([[0, 0, 1, 2, 0]], np.uint8), "P")
    indices.putpalette([0, 0, 0, 255, 255, 255, 200, 200, 200] + [9] * 759)
    for image in (gray.convert("1", dither=Image.Dither.NONE), indices):
        image.save(images.parent / "masks" / name)
        found = load_labels(images, images.parent / "masks", LabelOptions(mask_threshold=128))
        assert bitmask(found) == [[0, 0, 1, 1, 0]], image.mode


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_of_masks_says_nothing_where_all_is_opaque_and_is_refused_elsewhere(images: Path, mode: str) -> None:
    path = images.parent / "masks" / "a.png"
    path.parent.mkdir()
    image = Image.fromarray(np.array([[0, 0, 255, 200, 0]], np.uint8)).convert(mode)
    image.save(path)
    assert bitmask(load_labels(images, path.parent, LabelOptions(mask_threshold=128))) == [[0, 0, 1, 1, 0]]
    options = LabelOptions(class_names=["200=pit", "255=dent"])
    assert bitmask(load_labels(images, path.parent, options)) == [[0, 0, 2, 1, 0]]
    image.putpixel((0, 0), (0,) * (len(mode) - 1) + (90,))
    image.save(path)
    for given in ({"mask_threshold": 128}, {"class_names": ["200=pit", "255=dent"]}):
        assert problem_of(images, **given).startswith("masks in true colours or with transparency (--class-names '#f")


def test_a_threshold_leaves_ignored_pixels_out_and_keeps_classes_apart(images: Path) -> None:
    write(images.parent / "masks/pit/a.png", [[0, 200, 255, 9, 0]], np.uint8)
    write(images.parent / "masks/scratch/a.png", [[0, 200, 0, 0, 90]], np.uint8)
    found = load_labels(images, images.parent / "masks", LabelOptions(mask_threshold=50, ignore_value=255))
    assert bitmask(found) == [[0, 3, 128, 0, 2]]


def test_what_is_no_number_is_on_neither_side_of_a_threshold(images: Path) -> None:
    path = write(images.parent / "masks/a.tif", [[0, np.nan, 1, 1, np.nan]], np.float32)
    message = problem_of(images, mask_threshold=0.5)
    assert message == f"masks with unusable values: {path} (2 that are not numbers)"


def test_a_threshold_is_for_masks_of_one_class(images: Path) -> None:
    write(images.parent / "masks/a.png", SOFT, np.uint8)
    with pytest.raises(InputError, match="--mask-threshold is for masks of one class, not for label maps of 2"):
        load_labels(images, images.parent / "masks", LabelOptions(class_names=["a", "b"], mask_threshold=128))
    (images.parent / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 1\n")
    with pytest.raises(InputError, match="--mask-threshold is for masks, not for labels in the format kaggle"):
        load_labels(images, images.parent / "train.csv", LabelOptions(mask_threshold=128))


# --- files ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "not a readable image (JPEG, PNG, TIFF, BMP or WebP)"),
        (b"\xff\xd8\xff\xe0", "JPEG does not keep the values of masks; give PNG, TIFF or BMP"),
    ],
)
def test_files_that_are_no_masks_are_named(images: Path, content: bytes, message: str) -> None:
    path = images.parent / "masks/a.png"
    path.parent.mkdir()
    path.write_bytes(content)
    assert problem_of(images) == f"unreadable masks: {path} ({message})"


@pytest.mark.parametrize("folder", ["", "pit/"])
@pytest.mark.parametrize("missing", ["error", "clean"])
def test_a_name_in_other_capitals_is_told_as_such(images: Path, folder: str, missing: str) -> None:
    write(images.parent / f"masks/{folder}A.PNG", [[0, 0, 1, 1, 0]], np.uint8)
    message = problem_of(images, missing_mask=missing)
    assert (
        message == f"masks named in other capitals than their image (--any-case takes them): {folder}A.PNG (for a.jpg)"
    )
    (images.parent / f"masks/{folder}A.PNG").rename(images.parent / f"masks/{folder}a.PNG")
    assert bitmask(load_labels(images, images.parent / "masks")) == [[0, 0, 1, 1, 0]]
