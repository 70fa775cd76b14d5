"""Labels: what each format means, and every mistake told at once."""

import os
import pickle
import struct
import uuid
import zlib
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from steel.errors import InputError
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.validation_errors import Issue, ValidationErrors

REAL_DATA = os.environ.get("STEEL_REAL_DATA")
ROWS = "ImageId,ClassId,EncodedPixels\n"
PAIRS = "ImageId_ClassId,EncodedPixels\n"


def write_images(folder: Path, *names: str, shape: tuple[int, ...] = (4, 6)) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full(shape, 90, np.uint8))
    return folder


def write_mask(path: Path, rows: list[list[int]], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(rows, np.uint16 if np.max(rows) > 255 else np.uint8))
    if palette:
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def problems_of(error: pytest.ExceptionInfo[ValidationErrors]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for kind, name in error.value.issues:
        kinds.setdefault(kind, []).append(name)
    return kinds


# --- CSV ---


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
    assert "7 labels without an image: lost.png, gone0.png, gone1.png, gone2.png, gone3.png and 2 more" in line


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
        ("", "the header is ``"),
        (ROWS, "no classes"),
        (ROWS + "a.png,17,1 1\n", "class ids go up to 17, but at most 16"),
        (ROWS + "a.png,0,1 1\n", "no classes"),
        (ROWS + "a.png,0,1 1\na.png,1,1 1\n", r"labels of an unknown class: a\.png class 0 \(line 2\)"),
        (ROWS + "a.png,-1,1 1\na.png,1,1 1\n", r"no whole number from 0 on: line 2 \('-1' for a\.png\)"),
        (ROWS + "b.jpg,1,1 1\n", "1 labels without an image: b.jpg .*is this the right image folder"),
        (PAIRS + "a.png,1 1\nb.png_1,\n", "malformed rows: line 2"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, text, message):
    images = write_images(tmp_path / "images", "a.png")
    with pytest.raises(InputError, match=message):
        load_labels(images, write_text(tmp_path / "train.csv", text))


def test_a_file_that_is_no_text(tmp_path):
    images = write_images(tmp_path / "images", "a.png")
    (tmp_path / "train.csv").write_bytes(b"\xff\xfeI\0m\0")
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


# --- folders of masks ---


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
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 4))
    (tmp_path / "masks").mkdir()
    for name, depth, pixels in (("a", 2, b"\x1b"), ("b", 4, b"\x01\x23")):  # 0 1 2 3 in both
        header = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + chunk(b"IEND", b"")
        (tmp_path / f"masks/{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
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
    with pytest.raises(ValidationErrors, match=r"1 labels of an unknown class: scratch/a\.png"):
        load_labels(images, tmp_path / "masks", LabelOptions(class_names=["pit"]))


def test_a_mask_beside_the_class_folders_is_of_an_unknown_class(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 3))
    for name in ("pit/a.png", "pit/b.png", "scratch/b.png", "a.png"):
        write_mask(tmp_path / "masks" / name, [[0, 1, 0]])
    with pytest.raises(ValidationErrors, match=r"1 labels of an unknown class: a\.png"):
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


def test_a_missing_mask_can_mean_clean(tmp_path):
    images = write_images(tmp_path / "images", "a.jpg", "b.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 0]])
    with pytest.raises(ValidationErrors, match=r"1 images without a mask: b\.jpg"):
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
    with pytest.raises(ValidationErrors, match=r"1 unreadable masks: .*a\.png"):
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


# --- images ---


def test_masks_among_the_images_are_no_images(tmp_path):
    write_images(tmp_path, "a.jpg", shape=(1, 3))
    write_mask(tmp_path / "masks/a.png", [[0, 1, 0]])
    found = load_labels(tmp_path, tmp_path / "masks")
    assert [record.image_id for record in found.images] == ["a.jpg"]


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


def test_folders_and_options_that_cannot_be(tmp_path):
    csv = write_text(tmp_path / "train.csv", ROWS + "a.png,1,1 1\n")
    with pytest.raises(InputError, match="no such folder"):
        load_labels(tmp_path / "none", csv)
    with pytest.raises(InputError, match="no images there"):
        load_labels(tmp_path, csv)
    images = write_images(tmp_path / "images", "a.png", "b.png", "b.jpg")
    with pytest.raises(ValidationErrors, match=r"differ in their extension alone: b\.jpg, b\.png"):
        load_labels(images, csv)
    (images / "b.jpg").unlink()
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        load_labels(images, tmp_path / "gone.csv")
    with pytest.raises(InputError, match="--ignore-value is for masks, not for labels in the format kaggle"):
        load_labels(images, csv, LabelOptions(ignore_value=255))


def test_problems_cross_process_boundaries():
    error = pickle.loads(pickle.dumps(ValidationErrors([Issue("odd things", "a"), Issue("odd things", "b")], "here")))
    assert error.issues == (Issue("odd things", "a"), Issue("odd things", "b"))
    assert str(error) == "2 odd things: a, b (here)"


@pytest.mark.parametrize(("name", "ending"), [("coco", ".json"), ("labelme", ".json"), ("cvat", ".xml")])
def test_a_format_that_is_named_needs_a_file_of_it(tmp_path: Path, name: str, ending: str) -> None:
    """Nothing was read of another file, and its images were taken for clean."""
    images = write_images(tmp_path / "images", "a.jpg")
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 1\n")
    options = LabelOptions(format=name, class_names=["pit"], missing_mask="clean")
    for place in (tmp_path / "train.csv", images):
        with pytest.raises(InputError, match=rf"{place}: --labels-format {name} needs a file that ends in \{ending}$"):
            load_labels(images, place, options)
