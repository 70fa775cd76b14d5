"""Mistakes in what a sharding job is given are told in one line, and the mended input is taken."""

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from steel.images.listing import ImageRecord
from steel.labels.labels import Labels
from steel.labels.load import load_labels
from steel.shards.reader import ShardReader
from tests.image_folder import (
    HEIGHT,
    NUM_IMAGES,
    WIDTH,
    arguments,
    image_name,
    last_line,
    masks_of,
    tree_digest,
    write_images,
)

WAY_OUT = "(replace unusable images, or remove them: --stray-labels skip then leaves out their labels)"


def test_all_unusable_images_are_told_at_once(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (own_folder / "images" / image_name(number) for number in (0, 3, 6))
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(b"no image at all")
    third.write_bytes(b"")
    with open(own_folder / "train.csv", "a") as file:
        file.write(f"{image_name(9)},1,{HEIGHT * WIDTH} 2\n")
    assert main(arguments(own_folder, own_folder / "out")) == 2
    line = last_line(capsys)
    for number in (0, 3, 6, 9):
        assert image_name(number) in line
    assert not list((own_folder / "out").glob("*.json"))


@pytest.mark.parametrize("depth", [None, "percentile 1 99"])
def test_a_reason_that_images_share_is_told_once(
    depth: str | None, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all shards; what only one image has stands beside its name."""
    for number in range(8):
        (own_folder / "images" / image_name(number)).write_bytes(b"GIF89a, by another name")
    (own_folder / "images" / image_name(11)).write_bytes(b"")
    line = arguments(own_folder, own_folder / "out")
    assert main([*line, *(["--depth", *depth.split()] if depth else [])]) == 2
    told = last_line(capsys)
    assert told.count("not a readable image") == 1
    assert f"unusable images: {image_name(11)} (an empty file); unusable images (not a readable image (" in told
    assert told.endswith(WAY_OUT)


@pytest.mark.parametrize("depth", [[], ["--depth", "percentile", "1", "99"]])
@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (errno.EIO, 1, "cannot be read now (Input/output error); see to that, then give the same command again"),
        (errno.EACCES, 2, "unusable images (Permission denied): "),
    ],
)
def test_a_disk_that_fails_is_no_fault_of_the_images(
    fault: int,
    code: int,
    told: str,
    depth: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them is to be removed; those that may not be read are at fault."""

    def failing(record: ImageRecord) -> bytes:
        raise OSError(fault, os.strerror(fault), record.url)

    monkeypatch.setattr(ImageRecord, "read", failing)
    assert main([*arguments(folder, tmp_path / "out"), *depth]) == code
    line = last_line(capsys)
    assert told in line
    assert line.endswith(WAY_OUT) == (code == 2)


@pytest.mark.parametrize("labels", ["table", "masks"])
def test_the_way_out_of_a_damaged_image_is_told_and_leads_out(
    labels: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if labels == "masks":
        for number in range(NUM_IMAGES):
            mask = own_folder / "masks" / Path(image_name(number)).with_suffix(".png")
            mask.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(mask), masks_of(number)[1].astype(np.uint8))
    place = own_folder / ("masks" if labels == "masks" else "train.csv")
    broken = own_folder / "images" / image_name(4)
    broken.write_bytes(broken.read_bytes()[:-40])
    assert main(arguments(own_folder, own_folder / "out", labels=place)) == 2
    assert last_line(capsys).endswith(WAY_OUT)
    broken.unlink()
    assert main(arguments(own_folder, own_folder / "out", labels=place)) == 2
    assert "--stray-labels skip leaves them out" in last_line(capsys)
    assert main(arguments(own_folder, own_folder / "anew", labels=place, stray_labels="skip")) == 0
    assert "left out: labels without an image (1)" in capsys.readouterr().out


def test_mended_input_starts_over(
    own_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = own_folder / "images" / image_name(3)
    broken.write_bytes(b"no image at all")
    write_images(tmp_path / "more", NUM_IMAGES + 9)
    out = tmp_path / "out"
    assert main(arguments(tmp_path / "more", out, part="1/2")) == 0
    assert main(arguments(own_folder, out, part="1/2")) == 2
    assert "unfinished job with other images, labels, --labels-format, groups or split" in last_line(capsys)
    assert main(arguments(own_folder, out, seed=3)) == 2
    assert "unfinished job with other options: seed 0, not 3; remove the folder or" in last_line(capsys)
    assert main(arguments(own_folder, out)) == 2
    assert image_name(3) in last_line(capsys)
    write_images(own_folder, NUM_IMAGES)
    assert main(arguments(own_folder, out)) == 0
    assert "started over" in capsys.readouterr().out
    assert tree_digest(out) == tree_digest(shards)


def test_what_was_refused_before_anything_was_written_goes_on_with_the_option_that_it_named(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((own_folder / "images").rglob("*.jpg")):
        cv2.imwrite(str(path.with_suffix(".png")), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 257)
        path.unlink()
    table = own_folder / "train.csv"
    table.write_text(table.read_text().replace(".jpg", ".png"))
    out = own_folder / "out"
    assert main(arguments(own_folder, out)) == 2
    assert "--depth" in last_line(capsys)
    assert main(arguments(own_folder, out, depth="high-byte")) == 0
    assert "started over" not in capsys.readouterr().out
    assert main(arguments(own_folder, own_folder / "anew", depth="high-byte")) == 0
    assert tree_digest(out) == tree_digest(own_folder / "anew")


@pytest.mark.parametrize("place", ["images", "images/data.yaml"])
def test_a_label_that_was_corrected_in_place_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """By a file of as many bytes and the same time; labels lie beside the images."""
    write_images(tmp_path, NUM_IMAGES)
    (tmp_path / "train.csv").unlink()
    images = sorted((tmp_path / "images").rglob("*.jpg"))
    labels = [image.with_suffix(".txt") for image in images]
    for label in labels:
        label.write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    (tmp_path / "images" / "data.yaml").write_text("names: [pit, dent]\n")
    out = tmp_path / "out"
    line = arguments(tmp_path, out, labels=tmp_path / place)
    assert main([*line, "--part", "1/2"]) == 0
    times = labels[0].stat()
    labels[0].write_text("1 0.1 0.1 0.6 0.1 0.6 0.6\n")
    os.utime(labels[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main([*line, "--part", "2/2"]) == 2
    assert "unfinished job with other images, labels, --labels-format, groups or split" in last_line(capsys)
    assert main(line) == 0
    assert "started over" in capsys.readouterr().out
    index = ShardReader(out).index
    dented = [index.image_id(row) for row, (_, dents) in enumerate(index.areas.tolist()) if dents]
    assert dented == [images[0].relative_to(tmp_path / "images").as_posix()]


def test_copies_of_a_folder_of_labels_make_the_same_shards(tmp_path: Path) -> None:
    """As on machines that write the parts of a job; only what they hold counts, not when it was written."""
    for name in ("one", "two"):
        write_images(tmp_path / name, NUM_IMAGES)
        for image in (tmp_path / name / "images").rglob("*.jpg"):
            image.with_suffix(".txt").write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    lines = [
        arguments(tmp_path / name, tmp_path / "out", labels=tmp_path / name / "images", class_names="pit")
        for name in ("one", "two")
    ]
    assert main([*lines[0], "--part", "1/2"]) == main([*lines[1], "--part", "2/2"]) == 0
    assert main([*lines[1], "--join", "2"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "--shard-size 0"),
        ({"folds": 0}, "--folds 0"),
        ({"prefix": "a/b"}, "--prefix"),
        ({"prefix": "x" * 201}, "--prefix of 201 letters: give 200 at most"),
        ({"images": "nowhere"}, "nowhere: no such folder"),
        ({"resize": "32768x2"}, "--resize 32768x2: give 1 to 32,767 pixels a side"),
    ],
)
def test_bad_options_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], message: str
) -> None:
    assert main(arguments(folder, tmp_path / "out", **options)) == 2
    assert message in last_line(capsys)


def test_images_that_go_while_the_job_is_planned_are_one_line(
    own_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_slowly(*given: object) -> Labels:
        labels = load_labels(*given)  # type: ignore[arg-type]
        (own_folder / "images" / image_name(3)).unlink()
        return labels

    monkeypatch.setattr("data_prep.plan.load_labels", load_slowly)
    assert main(arguments(own_folder, own_folder / "out")) == 2
    told = f"images that have gone since they were listed: {image_name(3)} (in {own_folder / 'images'}; run this again"
    assert told in last_line(capsys)
    assert not (own_folder / "out").exists()


@pytest.mark.parametrize("option", ["images", "labels"])
def test_links_in_a_circle_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    assert main(arguments(folder, tmp_path / "out", **{option: circle})) == 2
    assert str(circle) in last_line(capsys)


MALFORMED = ["--resize=12", "--resize=0x5", "--part=3/2", "--executor=none", "--workers=0", "--folds=x", "--seed=-1"]


@pytest.mark.parametrize("option", MALFORMED)
def test_malformed_options_are_refused_by_the_parser(folder: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(SystemExit) as error:
        main([*arguments(folder, tmp_path / "out"), option])
    assert error.value.code == 2


def test_a_folder_with_other_files_is_left_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert main(arguments(folder, tmp_path)) == 2
    assert "is not empty (precious.txt)" in last_line(capsys)
    assert os.listdir(tmp_path) == ["precious.txt"]
