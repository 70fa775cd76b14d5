"""`steel convert`: labels of every format in every other, no pixel changed."""

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from steel.cli import main
from steel.errors import InputError
from steel.images.listing import ImageRecord
from steel.labels.convert import writable, write_labels
from steel.labels.labels import Labels
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.labels.rle import encode_rle

ENDINGS = {"kaggle": ".csv", "coco": ".json", "cvat": ".xml"}
SIZES = {"a.jpg": (24, 30), "coil/b.png": (17, 41), "coil/clean.jpg": (24, 30)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of different sizes, and a CSV with holes, parts of a pixel, and classes that overlap."""
    root = tmp_path_factory.mktemp("convert")
    random = np.random.default_rng(4)
    rows = ["ImageId,ClassId,EncodedPixels"]
    for name, size in SIZES.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, size, np.uint8))
        if "clean" not in name:
            rows += [f"{name},{k},{encode_rle(random.random(size) < share)}" for k, share in ((1, 0.6), (2, 0.1))]
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    return root


def bits(labels: Labels) -> dict[str, list[list[int]]]:
    return {name: labels.bitmask(name, *size).tolist() for name, size in SIZES.items()}


@pytest.mark.parametrize("second", writable())
@pytest.mark.parametrize("first", writable())
def test_no_pixel_changes_from_any_format_to_any_other(tmp_path: Path, folder: Path, first: str, second: str) -> None:
    """Also: what is written is recognised as what it is, and keeps the names of the classes where it can hold them."""
    names = ("dent", "pit")  # in the order of the alphabet, in which LabelMe's labels come
    start = labels = load_labels(folder / "images", folder / "train.csv", LabelOptions(class_names=names))
    for step, name in enumerate((first, second)):
        out = tmp_path / f"{step}{ENDINGS.get(name, '')}"
        write_labels(labels, str(out), name)
        labels = load_labels(folder / "images", out, LabelOptions(class_names=names if name == "kaggle" else None))
        assert labels.class_names == names
        assert bits(labels) == bits(start)


def test_the_command(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["convert", str(folder / "train.csv"), "--images", str(folder / "images"), "--class-names", "pit,dent"]
    assert main([*line, "--to", "coco", "--out", str(tmp_path / "labels.json")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/labels.json: 3 images, classes pit, dent\n"
    found = load_labels(folder / "images", tmp_path / "labels.json")
    assert bits(found) == bits(load_labels(folder / "images", folder / "train.csv"))
    assert main([*line, "--to", "yolo", "--out", str(tmp_path / "new/yolo")]) == 0
    assert main([*line, "--to", "yolo", "--out", str(tmp_path / "new/yolo")]) == 2
    assert "is there already, and not empty; give another --out" in capsys.readouterr().err
    assert main([*line, "--to", "kaggle", "--out", str(folder / "train.csv")]) == 2
    assert "read by the same command" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["yolo"]


@pytest.mark.parametrize("form", writable())
def test_the_folder_of_what_is_written_is_made_before_any_image_is_read(
    form: str, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["convert", str(folder / "train.csv"), "--images", str(folder / "images"), "--to", form, "--out"]
    out = tmp_path / f"new/{form}{ENDINGS.get(form, '')}"
    assert main([*line, str(out)]) == 0
    assert out.is_dir() == (form not in ENDINGS)
    (tmp_path / "file").touch()
    capsys.readouterr()
    monkeypatch.setattr(ImageRecord, "read", lambda record: pytest.fail("read an image"))
    assert main([*line, str(tmp_path / "file/out")]) == 2
    assert f"cannot be made, for {tmp_path}/file is no folder; give another place" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "writes"), [("masks", "write_bytes"), ("yolo", "write_text")])
def test_a_full_disk_is_one_line_with_the_folder_and_what_helps(
    form: str,
    writes: str,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, writes, full)
    line = ["convert", str(folder / "train.csv"), "--images", str(folder / "images"), "--class-names", "pit,dent"]
    assert main([*line, "--to", form, "--out", str(tmp_path / "new")]) == 1
    helps = "make room there or choose another place"
    assert capsys.readouterr().err == f"error: No space left on device: {tmp_path}/new; {helps}\n"
    assert os.listdir(tmp_path) == []


def test_masks_of_images_in_a_folder_per_class_are_read_back(tmp_path: Path) -> None:
    """Of each image a mask in every class's folder: `crack/cut/0.png` is of the image `cut/0.png`, and of cracks."""
    for kind in ("crack", "cut", "good"):
        for folder in ("test", "truth"):
            (tmp_path / folder / kind).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"test/{kind}/0.png"), np.full((2, 3), 90, np.uint8))
        if kind != "good":
            cv2.imwrite(str(tmp_path / f"truth/{kind}/0_mask.png"), np.array([[255, 0, 0], [0, 0, 255]], np.uint8))
    labels = load_labels(tmp_path / "test", tmp_path / "truth")
    write_labels(labels, str(tmp_path / "masks"), "masks")
    again = load_labels(tmp_path / "test", tmp_path / "masks")
    assert (labels.format, again.format) == ("class-folders", "masks")
    assert again.class_names == labels.class_names == ("crack", "cut")
    for name, value in (("crack/0.png", 1), ("cut/0.png", 2), ("good/0.png", 0)):
        assert again.bitmask(name, 2, 3).tolist() == [[value, 0, 0], [0, 0, value]]


def test_what_is_left_out_is_told(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["convert", str(folder / "train.csv"), "--images", str(folder / "images"), "--class-names", "pit"]
    line += ["--stray-labels", "skip", "--to", "masks", "--out", str(tmp_path / "masks")]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("left out: labels of an unknown class (2)\n")
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert written == ["masks/pit/a.png", "masks/pit/coil/b.png", "masks/pit/coil/clean.png"]


def test_an_image_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"\xff\xd8 cut")
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 1\n")
    labels = load_labels(tmp_path / "images", tmp_path / "train.csv")
    for name in writable():
        with pytest.raises(InputError, match=r"unusable images: a\.jpg"):
            write_labels(labels, str(tmp_path / "out"), name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "train.csv"]


def test_all_that_cannot_be_read_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the first look at a set, too."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n in range(6):
        cv2.imwrite(str(tmp_path / f"images/{n}.png"), np.full((8, 9), 90 + n, np.uint8))
        cv2.imwrite(str(tmp_path / f"masks/{n}.png"), np.full((8, 7 if n == 5 else 9), n % 2, np.uint8))
    for n in (1, 3):
        (tmp_path / f"images/{n}.png").write_bytes((tmp_path / f"images/{n}.png").read_bytes()[:40])
    labels, images = str(tmp_path / "masks"), str(tmp_path / "images")
    for line in (
        ["convert", labels, "--images", images, "--to", "coco", "--out", str(tmp_path / "out.json")],
        ["explore", "--images", images, "--labels", labels, "--out", str(tmp_path / "out")],
    ):
        assert main(line) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert all(f"{n}.png" in told for n in (1, 3, 5)) and "8x7" in told
    assert not list(tmp_path.glob("out*"))


def test_a_disk_that_fails_is_asked_once_and_is_no_wrong_input(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rights are missing, the image is named, and the exit code is that of rights."""
    asked, fault = list[str](), errno.EIO

    def failing(record: ImageRecord) -> bytes:
        asked.append(record.image_id)
        raise OSError(fault, os.strerror(fault), record.url)

    monkeypatch.setattr(ImageRecord, "read", failing)
    given = ["--class-names", "pit,dent", "--out", str(tmp_path / "out")]
    for line in (
        ["convert", str(folder / "train.csv"), "--images", str(folder / "images"), "--to", "masks", *given],
        ["explore", "--images", str(folder / "images"), "--labels", str(folder / "train.csv"), *given],
    ):
        fault = errno.EIO
        asked.clear()
        assert main(line) == 1 and len(asked) == 1
        assert "a.jpg: cannot be read now (Input/output error)" in capsys.readouterr().err
        fault = errno.EACCES
        assert main(line) == 1
        assert "unusable images: a.jpg (Permission denied)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ignored_pixels_go_into_masks_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.jpg"), np.zeros((2, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "masks/a.png"), np.array([[0, 1, 2, 9]] * 2, np.uint8))
    labels = load_labels(
        tmp_path / "images", tmp_path / "masks", LabelOptions(class_names=["pit", "dent"], ignore_value=9)
    )
    with pytest.raises(InputError, match="--to coco: holds no ignored pixels; `masks` does"):
        write_labels(labels, str(tmp_path / "out.json"), "coco")
    write_labels(labels, str(tmp_path / "out"), "masks")
    again = load_labels(
        tmp_path / "images", tmp_path / "out", LabelOptions(class_names=["pit", "dent"], ignore_value=128)
    )
    assert again.bitmask("a.jpg", 2, 4).tolist() == [[0, 1, 2, 128]] * 2


@pytest.mark.parametrize("name", ["../pit", "a/b", ".hidden"])
def test_classes_that_are_no_names_of_folders(tmp_path: Path, folder: Path, name: str) -> None:
    labels = load_labels(folder / "images", folder / "train.csv", LabelOptions(class_names=[name, "dent"]))
    with pytest.raises(InputError, match="no name for a folder; give another"):
        write_labels(labels, str(tmp_path / "out"), "masks")
    assert not list(tmp_path.iterdir())


def test_formats_that_are_not_written_and_places_that_cannot_be(tmp_path: Path, folder: Path) -> None:
    labels = load_labels(folder / "images", folder / "train.csv")
    with pytest.raises(InputError, match="--to class-folders: labels are not written so, but as kaggle, coco"):
        write_labels(labels, str(tmp_path / "out"), "class-folders")
    with pytest.raises(InputError, match="a folder of files; write it to a local one"):
        write_labels(labels, "memory://out", "yolo")
