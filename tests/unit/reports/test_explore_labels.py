"""Images and labels as they come from a tool, explored before they are shards."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steel.cli import main
from steel.decision import default_decision
from steel.inference.prediction import Prediction
from steel.inference.writers import WRITERS, FileWriter, Predicted, Task
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.reports.explore import explore
from steel.reports.explore_data import data_of_labels, data_of_shards
from steel.shards.format import MANIFEST_NAME
from tests.explored_page import titles
from tests.shard_folder import make_shards


def test_labels_are_explored_before_sharding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same figures as of the shards; files of equal bytes are duplicates."""
    import cv2

    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for n in range(6):
        image, mask = np.full((20, 40), 90 + n // 2, np.uint8), np.zeros((20, 40), np.uint8)
        mask[2 : 4 + n % 2, 5:15] = n > 0
        cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), image)
        cv2.imwrite(str(tmp_path / "masks" / f"{n}.png"), mask)
    paths = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "masks")]
    assert main(["explore", *paths, "--class-names", "spot", "--out", str(tmp_path / "out")]) == 0
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert (figures["images"], figures["clean"], figures["folds"]) == (6, 1, [])
    assert figures["classes"]["spot"]["area"]["smallest"] == 20 and figures["classes"]["spot"]["area"]["largest"] == 30
    assert figures["duplicates"]["largest"] == [2, 2, 2]
    assert titles(figures)["1 group of duplicates labelled differently"] == ["0.png", "1.png"]
    assert "1 group of duplicates labelled differently" in capsys.readouterr().out
    assert main(["explore", *paths[:2], "--out", str(tmp_path / "none")]) == 2
    assert "give either SHARDS, or both --images and --labels" in capsys.readouterr().err
    for unused in (paths[:2], ["--labels-format", "coco"]):
        assert main(["explore", str(tmp_path), *unused, "--out", str(tmp_path / "none")]) == 2
        assert "give either SHARDS, or both --images and --labels" in capsys.readouterr().err

    data = data_of_labels(
        load_labels(*(tmp_path / name for name in ("images", "masks")), LabelOptions(class_names=["spot"])), "here"
    )
    assert explore(data, tmp_path / "again")["classes"] == figures["classes"]


def test_images_that_exif_turns_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for n in range(5):
        picture = Image.fromarray(np.full((20, 40), 90 + n, np.uint8))
        picture.save(tmp_path / f"images/{n}.jpg", **({"exif": exif} if n in (1, 3) else {}))
        Image.fromarray(np.full((20, 40), n % 2, np.uint8)).save(tmp_path / f"masks/{n}.png")
    line = ["explore", "--images", str(tmp_path / "images"), "--labels", str(tmp_path / "masks")]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    title = "2 images with an EXIF orientation other than 1: 1.jpg, 3.jpg"
    assert title in capsys.readouterr().out.splitlines()
    assert titles(json.loads((tmp_path / "out/figures.json").read_text()))[title] == ["1.jpg", "3.jpg"]
    assert "pixels are taken as stored" in (tmp_path / "out/index.html").read_text().lower()

    Image.fromarray(np.ones((40, 20), np.uint8)).save(tmp_path / "masks/3.png")
    assert main([*line, "--out", str(tmp_path / "turned")]) == 2
    assert "masks turned by a quarter against their image (by its EXIF orientation," in capsys.readouterr().err


def test_images_in_colour_among_gray_ones_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for n in range(5):
        shape = (20, 40, 3) if n in (0, 3) else (20, 40)  # of 0.png all channels are equal
        picture = np.full(shape, 90 + n, np.uint8)
        if n == 3:
            picture[..., 0] = 200
        Image.fromarray(picture).save(tmp_path / f"images/{n}.png")
        Image.fromarray(np.full((20, 40), n % 2, np.uint8)).save(tmp_path / f"masks/{n}.png")
    line = ["explore", "--images", str(tmp_path / "images"), "--labels", str(tmp_path / "masks")]
    assert main([*line, "--out", str(tmp_path / "out")]) == 0
    title = "1 colour image among 4 gray: 3.png"
    assert title in capsys.readouterr().out.splitlines()
    assert titles(json.loads((tmp_path / "out/figures.json").read_text()))[title] == ["3.png"]
    assert "The network takes three channels for all of them" in (tmp_path / "out/index.html").read_text()


def test_images_of_16_bits_are_measured_on_one_scale(tmp_path: Path) -> None:
    """One of twenty has an eighth of the exposure; the brightest pixel of all is 4,000 of 65,535."""
    import cv2

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for n in range(20):
        image = rng.integers(2000, 4001, (20, 40)).astype(np.uint16)
        image[0, 0] = 4000
        cv2.imwrite(str(tmp_path / f"images/{n:02d}.png"), image // 8 if n == 7 else image)
        cv2.imwrite(str(tmp_path / f"masks/{n:02d}.png"), np.full((20, 40), n % 2, np.uint8))
    data = data_of_labels(load_labels(tmp_path / "images", tmp_path / "masks"), "here")
    assert [int(data.read(row)[0].max()) for row in (6, 7)] == [255, 255 // 8]
    assert titles(explore(data, tmp_path / "out"))["1 image of odd brightness"] == ["07.png"]


def test_a_class_called_clean_is_not_the_clean_images(tmp_path: Path) -> None:
    masks = [np.full((20, 40), n % 4 == 0, np.uint8) for n in range(8)]
    shards = make_shards(tmp_path / "s", [np.full((20, 40), 90, np.uint8)] * 8, masks, num_classes=1, folds=4)
    manifest = shards / MANIFEST_NAME
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"class_names": ["clean"]}))
    figures = explore(data_of_shards(shards), tmp_path / "out")
    groups = {name: group["images"] for name, group in figures["pixels"]["groups"].items()}
    assert groups == {"clean (no class)": 6, "clean": 2}
    assert "fold 0 has no clean (no class) image" in titles(figures)
    page = (tmp_path / "out/index.html").read_text()
    assert len(re.findall(r">clean \(no class\)</", page)) >= 4  # of charts, tables and examples
    assert "</b> clean (no class), fold" in page  # below an example


def test_what_is_left_out_of_the_labels_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    (tmp_path / "images").mkdir()
    for n in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), np.full((20, 40), 90 + n, np.uint8))
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n0.png,1,1 5\ngone.png,1,1 5\n")
    paths = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "train.csv")]
    assert main(["explore", *paths, "--stray-labels", "skip", "--out", str(tmp_path / "out")]) == 0
    assert "left out: labels without an image (1)" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("format", "place"), [("coco", "coco.json"), ("kaggle", "submission.csv")])
def test_predictions_are_explored_as_labels(format: str, place: str, tmp_path: Path) -> None:
    """What `steel predict` writes of an image with a square of 24 pixels, and of a clean one."""
    import cv2

    (tmp_path / "images").mkdir()
    image = np.full((20, 40), 90, np.uint8)
    probs = np.zeros((2, 20, 40), np.uint8)
    probs[1, 5:9, 10:16] = 240
    said = {"a.png": probs, "b.png": np.zeros_like(probs)}
    for name in said:
        cv2.imwrite(str(tmp_path / "images" / name), image)
    writer = WRITERS[format]
    assert isinstance(writer, FileWriter)
    entries = {
        name: writer.encode(
            Prediction(name, image, ("1", "2"), default_decision(2), of_image, np.full(3, 255, np.uint8))
        )
        for name, of_image in said.items()
    }
    writer.write(str(tmp_path / place), Predicted(Task(("1", "2"), list(said)), entries, {}))
    paths = ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / place)]
    assert main(["explore", *paths, "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out/images.csv", newline="") as file:
        first, second = csv.DictReader(file)
    areas = {name: int(value) for name, value in first.items() if name.startswith("pixels ")}
    assert sorted(areas.values())[-1] == sum(areas.values()) == 24
    assert [float(value) for name, value in first.items() if name.startswith("per cent ")][-1] == 3.0
    assert (first["image_id"], second["image_id"], second["classes"]) == ("a.png", "b.png", "")
