"""The page about a data set, and its figures against the data it was made from."""

import csv
import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest

from steel.cli import main
from steel.errors import InputError
from steel.images.class_colours import class_colour
from steel.images.strip import BLACK_LEVEL
from steel.loading.crop import place_window
from steel.reports import explore as explore_module
from steel.reports.explore import EXPLORED, explore
from steel.reports.explore_data import data_of_shards
from steel.reports.explore_figures import choose_examples, survey_pixels
from tests.explored_page import PageText
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


@pytest.mark.parametrize(
    ("size", "places"), [((512, 32), (640, 48)), ((64, 32), (96, 48)), ((32, 32), (48, 48)), ((16, 1600), (48, 640))]
)
def test_the_shorter_side_has_as_many_places_whichever_it_is(size, places, tmp_path) -> None:
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2] = 1
    shards = make_shards(tmp_path / "shards", [np.full(size, 90, np.uint8)], [mask], num_classes=1)
    heat = survey_pixels(data_of_shards(shards), np.arange(1)).heat
    assert heat.shape == (1, *places)
    assert heat.mean() == pytest.approx(0.5)


def test_an_earlier_page_never_stands_beside_other_figures(handmade, tmp_path, monkeypatch) -> None:
    data = data_of_shards(handmade)
    explore(data, tmp_path)

    def fail(*_: object) -> str:
        raise OSError("no room")

    monkeypatch.setattr(explore_module, "explore_page", fail)
    with pytest.raises(OSError, match="no room"):
        explore(data, tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_page_carries_its_pictures_and_escapes_names(explored) -> None:
    _, out = explored
    page = (out / "index.html").read_text()
    assert {path.name for path in out.iterdir()} == {"index.html", "figures.json", "images.csv"}
    sources = re.findall(r'src="([^"]{0,22})', page)
    assert len(sources) > 8
    assert all(source.startswith("data:image/") for source in sources)
    assert "&lt;shards&gt;" in page
    assert "<shards>" not in page
    text = PageText.of(page)
    assert "images/0001.png class 1: 40 pixels, 5.00 %, fold 1" in text  # captions are text, and whole
    for heading in ("Findings", "Classes", "Gray levels", "several classes", "Folds", "Duplicates"):
        assert heading in text


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
    text = PageText.of((tmp_path / "out/index.html").read_text())
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


@pytest.mark.parametrize("name", EXPLORED)
def test_files_of_others_are_not_replaced(handmade, tmp_path, name) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"{tmp_path}: {name} there already, and not of an earlier call"):
        explore(data_of_shards(handmade), tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]
