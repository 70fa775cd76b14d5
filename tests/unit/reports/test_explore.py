"""The page about a data set, and its figures against the data it was made from."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steel.cli import main
from steel.decision import default_decision
from steel.images.class_colours import class_colour
from steel.images.strip import BLACK_LEVEL
from steel.inference.prediction import Prediction
from steel.inference.writers import WRITERS, FileWriter, Predicted, Task
from steel.labels.load import load_labels
from steel.labels.options import LabelOptions
from steel.loading.crop import place_window
from steel.reports.explore import explore
from steel.reports.explore_data import data_of_labels, data_of_shards
from steel.reports.explore_figures import choose_examples, survey_pixels
from steel.shards.format import MANIFEST_NAME
from tests.shard_folder import make_shards


@pytest.fixture(scope="module")
def handmade(tmp_path_factory):
    """Four images of 20x40: one clean and half black, one of class 1 in two regions, two of classes 1 and 2."""
    images = [np.full((20, 40), level, np.uint8) for level in (100, 120, 140, 160)]
    images[0][:, :20] = 0
    masks = [np.zeros((20, 40), np.uint8) for _ in images]
    masks[1][0:4, 0:5] = 1
    masks[1][10:12, 30:40] = 1
    masks[2][5:15, 0:20] = 1
    masks[2][5:15, 20:40] = 2
    masks[3][5:15, 10:20] = 3  # both in the same pixels
    return make_shards(tmp_path_factory.mktemp("explore") / "<shards>", images, masks, num_classes=2, folds=2)


@pytest.fixture(scope="module")
def explored(handmade):
    """The figures, and the folder of what was written; drawing takes seconds, so once."""
    return explore(data_of_shards(handmade), handmade.parent / "out"), handmade.parent / "out"


def test_figures_are_those_of_the_data(explored) -> None:
    figures, out = explored
    assert (figures["images"], figures["clean"], figures["channels"]) == (4, 1, 1)
    one, two = figures["classes"]["class 1"], figures["classes"]["class 2"]
    assert (one["images"], two["images"], two["share"]) == (3, 2, 0.5)
    assert one["area"]["median"] == 100  # of 40, 200 and 100 pixels
    assert one["area_share"]["mean"] == pytest.approx((40 + 200 + 100) / 3 / 800)
    assert figures["combinations"][0] == {"classes": ["class 1", "class 2"], "images": 2}
    assert [fold["images"] for fold in figures["folds"]] == [2, 2]
    assert figures["folds"][1] == {
        "fold": 1,
        "images": 2,
        "clean": 0,
        "classes": {"class 1": 2, "class 2": 1},
        "shares": {"class 1": 1.0, "class 2": 0.5},
    }
    assert figures["duplicates"]["groups_of_several"] == 0
    pixels = figures["pixels"]
    assert pixels["groups"]["clean"] == {
        "images": 1,
        "mean": 100.0,
        "std": 0.0,
        "black_share": 0.5,
        "partly_black": 1.0,
    }
    assert pixels["groups"]["class 2"]["mean"] == 150.0
    assert pixels["regions"] == {"class 1": [2, 1], "class 2": [2]}
    assert json.loads((out / "figures.json").read_text()) == figures


def test_heat_is_the_share_of_masks_that_cover_a_place(handmade) -> None:
    survey = survey_pixels(data_of_shards(handmade), np.arange(4))
    second = survey.heat[1]  # covers the right half of image 2 and the second quarter of image 3
    assert second.shape == (48, 96)
    assert second[24, [5, 35, 90]] == pytest.approx([0, 0.5, 0.5])
    assert second[2].max() == 0


def test_page_carries_its_pictures_and_escapes_names(explored) -> None:
    _, out = explored
    page = (out / "index.html").read_text()
    assert {path.name for path in out.iterdir()} == {"index.html", "figures.json", "images.csv"}
    sources = re.findall(r'src="([^"]{0,22})', page)
    assert len(sources) > 8
    assert all(source.startswith("data:image/") for source in sources)
    assert "&lt;shards&gt;" in page
    assert "<shards>" not in page
    text = HTMLParserText.of(page)
    assert "images/0001.png class 1: 40 pixels, 5.00 %, fold 1" in text  # captions are text, and whole
    for heading in ("Findings", "Classes", "Gray levels", "several classes", "Folds", "Duplicates"):
        assert heading in text


class HTMLParserText(HTMLParser):
    """The text of a page; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open = "", []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        pass

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data

    @classmethod
    def of(cls, page: str) -> str:
        parser = cls()
        parser.feed(page)
        assert not parser.open
        return parser.text


def test_what_is_shown_of_many_is_not_counted_for_all(tmp_path) -> None:
    """23 sizes, of which 8 are listed; groups of 12 and 7 images, of which 6 are shown; 25 regions, one bar for 20."""
    sizes = [(16 + number // 2, 32) for number in range(46)]
    masks = [np.zeros(size, np.uint8) for size in sizes]
    masks[0][1:11:2, 1:11:2] = 1  # 5 x 5 separate pixels
    groups = [0] * 12 + [1] * 7 + list(range(2, 29))
    shards = make_shards(tmp_path / "s", [np.full(size, 90, np.uint8) for size in sizes], masks, groups=groups)
    figures = explore(data_of_shards(shards), tmp_path / "out")
    assert (figures["num_sizes"], len(figures["sizes"])) == (23, 8)
    assert figures["duplicates"] == {"groups": 29, "groups_of_several": 2, "images_in_them": 19, "largest": [12, 7]}
    assert figures["pixels"]["regions"]["class 1"] == [0] * 19 + [1]
    text = HTMLParserText.of((tmp_path / "out/index.html").read_text())
    assert "16x32 (2), 17x32 (2), 18x32 (2) and 20 more" in text
    assert "12 images of one group, the first 6" in text
    assert "7 images of one group, the first 6" in text
    assert "20 stands for so many regions and more" in text


def test_regions_are_those_of_the_original_masks(tmp_path) -> None:
    mask = np.zeros((40, 80), np.uint8)
    mask[0:4:2, 10] = 1  # two pixels that a fourth of the size has no room for
    data = data_of_shards(make_shards(tmp_path / "s", [np.full((10, 20), 90, np.uint8)], [mask]))
    survey = survey_pixels(data, np.arange(1))
    assert survey.regions.tolist() == [[2, 0, 0]] and survey.smallest.tolist() == [[1, 0, 0]]


def test_black_is_what_crops_take_for_beside_the_strip(tmp_path) -> None:
    image = np.full((16, 64), BLACK_LEVEL + 1, np.uint8)
    image[:, :32] = BLACK_LEVEL
    clean = np.zeros_like(image)
    survey = survey_pixels(data_of_shards(make_shards(tmp_path / "s", [image], [clean])), np.arange(1))
    assert (survey.black.tolist(), survey.mean.tolist()) == ([0.5], [BLACK_LEVEL + 1])
    lefts = [place_window(Random(n), image, clean, (16, 32), target_class=0, max_black=0.0).left for n in range(40)]
    assert np.mean(lefts) > 24  # of 0 to 32: the right half is not black


def test_only_clean_images_and_a_part_of_the_images(tmp_path) -> None:
    images = [np.full((16, 32), 90, np.uint8)] * 5
    shards = make_shards(tmp_path / "s", images, [np.zeros((16, 32), np.uint8)] * 5)
    figures = explore(data_of_shards(shards), tmp_path / "out", max_images=2)
    assert figures["pixels"]["images"] == 2
    assert figures["combinations"] == [{"classes": [], "images": 5}]


def test_examples_go_from_small_to_large(handmade) -> None:
    areas = data_of_shards(handmade).areas
    assert choose_examples(areas, 1, 6) == [1, 3, 2]
    assert choose_examples(areas, 1, 1) == [3]
    assert choose_examples(areas, None, 2) == [0]


def titles(figures: dict[str, Any]) -> dict[str, list[str]]:
    """The findings with their images."""
    return {finding["title"]: finding["images"] for finding in figures["findings"]}


def test_what_is_conspicuous_comes_first(tmp_path: Path) -> None:
    """40 images, of which two copies differ in their class, one mask has a pixel, one is odd in size, one in light."""
    rng = np.random.default_rng(0)
    images = [rng.integers(95, 106, (40, 80)).astype(np.uint8) for _ in range(40)]
    masks = [np.zeros((40, 80), np.uint8) for _ in images]
    for n in range(1, 25):
        masks[n][4:20, 4:24] = 1
    masks[25][10:20, 10:20] = 2
    masks[26][3, 3] = 1
    masks[27][0:10, 0:10] = 1
    masks[27][30, 60] = 1  # a speck
    images[28], masks[28] = np.full((30, 50), 100, np.uint8), np.zeros((30, 50), np.uint8)
    images[29][:] = 240
    images[30][:] = 0
    groups = list(range(40))
    groups[2] = groups[31]  # of class 1, and clean
    groups[3] = groups[4]  # both of class 1
    dense = np.unique(groups, return_inverse=True)[1].tolist()
    shards = make_shards(tmp_path / "s", images, masks, num_classes=3, folds=4, groups=dense)
    figures = explore(data_of_shards(shards), tmp_path / "out")
    found = titles(figures)
    assert list(found)[:3] == [
        "1 group of duplicates labelled differently",
        "2 groups of duplicates in several folds",
        "no image has class 3",
    ]
    names = {title: [name.removeprefix("images/").removesuffix(".png") for name in found[title]] for title in found}
    assert names["1 group of duplicates labelled differently"] == ["0002", "0031"]
    assert names["class 2 is too rare to measure: 1 image"] == ["0025"]
    assert names["1 mask of at most 10 pixels, 1 of a single one"] == ["0026"]
    assert names["1 image with specks of 1 or 2 pixels beside larger regions"] == ["0027"]
    assert names["1 image of another size than 40x80"] == ["0028"]
    assert names["1 image almost wholly black"] == ["0030"]
    assert names["1 image of odd brightness"] == ["0029"]
    text = HTMLParserText.of((tmp_path / "out/index.html").read_text())
    assert text.index("labelled differently") < text.index("Images of each class")


def test_groups_larger_than_a_fold_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(95, 106, (40, 80)).astype(np.uint8) for _ in range(20)]
    masks = [np.zeros((40, 80), np.uint8) for _ in images]
    groups = [0] * 6 + [1] * 2 + list(range(2, 14))
    shards = make_shards(tmp_path / "s", images, masks, num_classes=1, folds=4, groups=groups)
    found = titles(explore(data_of_shards(shards), tmp_path / "out"))
    assert "8 of 20 images lie in 2 groups of duplicates" in found
    assert "6 of 20 images belong together, more than an even fold has" in found
    shards = make_shards(tmp_path / "even", images, masks, num_classes=1, folds=2, groups=groups)
    assert not any("belong together" in title for title in titles(explore(data_of_shards(shards), tmp_path / "of-two")))


def test_nothing_is_made_of_sound_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(90, 110, (20, 40)).astype(np.uint8) for _ in range(80)]
    masks = [np.zeros((20, 40), np.uint8) for _ in images]
    for n in range(0, 80, 2):
        masks[n][4:10, 4:24] = 1
    figures = explore(
        data_of_shards(make_shards(tmp_path / "s", images, masks, num_classes=1, folds=5)), tmp_path / "out"
    )
    assert figures["findings"] == []
    assert "Nothing conspicuous was found." in (tmp_path / "out/index.html").read_text()


def test_a_fold_that_differs_is_named(tmp_path: Path) -> None:
    """Fold 0 is all class 1, of which the others have none."""
    masks = [np.zeros((20, 40), np.uint8) for _ in range(120)]
    for n in range(0, 120, 4):
        masks[n][4:10, 4:24] = 1
    images = [np.full((20, 40), 90, np.uint8)] * 120
    found = titles(
        explore(data_of_shards(make_shards(tmp_path / "s", images, masks, num_classes=1, folds=4)), tmp_path / "out")
    )
    assert "fold 0 differs: 100.0 % class 1, 25.0 % of all" in found
    assert "fold 0 has no clean image" in found
    assert [title for title in found if title.endswith("no class 1 image")] == [
        f"fold {k} has no class 1 image" for k in (1, 2, 3)
    ]


def test_the_table_has_every_image(explored, handmade) -> None:
    _, out = explored
    with (out / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [f"images/{n:04d}.png" for n in range(4)]
    assert [row["classes"] for row in rows] == ["", "class 1", "class 1 + class 2", "class 1 + class 2"]
    assert [int(row["pixels class 1"]) for row in rows] == [0, 40, 200, 100]
    assert [float(row["per cent class 1"]) for row in rows] == [0, 5, 25, 12.5]
    assert [int(row["regions class 1"]) for row in rows] == [0, 2, 1, 1]
    assert [int(row["smallest region class 1"]) for row in rows] == [0, 20, 200, 100]
    assert [float(row["mean_gray"]) for row in rows] == [100, 120, 140, 160]
    assert rows[0]["black_share"] == "0.5" and rows[1]["fold"] == "1"


def test_areas_are_in_pixels_and_shares_and_counted_in_octaves(explored) -> None:
    figures, _ = explored
    assert figures["classes"]["class 1"]["area_share"]["largest"] == 0.25
    # 40, 200 and 100 pixels; 200 and 100.
    assert figures["area_octaves"] == {"lowest": 5, "images": {"class 1": [1, 1, 1], "class 2": [0, 1, 1]}}


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


def test_masks_stand_alone_on_black_beside_the_image(tmp_path: Path) -> None:
    """Below it where the image is wide; a mask of a single pixel of a large image is still to be seen."""
    import base64

    import cv2

    mask = np.zeros((400, 1600), np.uint8)
    mask[201, 803] = 1
    mask[100:150, 1000:1100] = 2
    shards = make_shards(tmp_path / "s", [np.full(mask.shape, 120, np.uint8)], [mask], num_classes=2)
    explore(data_of_shards(shards), tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    data = re.search(r'src="data:image/jpeg;base64,([^"]+)" alt="images/0000.png, masks alone"', page)
    assert data is not None
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data[1]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert picture.shape == (200, 800, 3)
    assert np.abs(picture[62, 525] - class_colour(2)).max() < 40
    assert picture[100, 401].max() > 60 and picture[10, 10].max() < 10


@pytest.mark.parametrize("options", [["missing"], ["--max-images", "0"]])
def test_command_refuses_what_it_cannot_read(handmade, tmp_path, capsys, options) -> None:
    shards = str(tmp_path / "missing") if options == ["missing"] else str(handmade)
    arguments = [] if options == ["missing"] else options
    assert main(["explore", shards, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_not_written_into(handmade, tmp_path, capsys) -> None:
    before = sorted(path.name for path in Path(handmade).iterdir())
    (tmp_path / "images").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    for arguments, out in (
        ([str(handmade)], f"{handmade}/"),
        (["--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/train.csv"], f"{tmp_path}/images"),
        (["--images", f"{tmp_path}/images", "--labels", f"{tmp_path}/out/images.csv"], f"{tmp_path}/out"),
    ):
        assert main(["explore", *arguments, "--out", out]) == 2
        assert re.fullmatch(r"error: \S+: read by the same command; give .* another name\n", capsys.readouterr().err)
    assert sorted(path.name for path in Path(handmade).iterdir()) == before
