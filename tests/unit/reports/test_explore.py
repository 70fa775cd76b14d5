"""The page about a shard folder, and its figures against the data it was made from."""

import json
import re
from html.parser import HTMLParser
from random import Random

import numpy as np
import pytest

from steel.cli import main
from steel.images.strip import BLACK_LEVEL
from steel.loading.crop import place_window
from steel.reports.explore import explore
from steel.reports.explore_figures import choose_examples, survey_pixels
from steel.reports.explore_page import Page
from steel.shards.reader import ShardReader
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
    return explore(handmade, handmade.parent / "out"), handmade.parent / "out"


def test_figures_are_those_of_the_data(explored) -> None:
    figures, out = explored
    assert (figures["images"], figures["clean"], figures["channels"]) == (4, 1, 1)
    one, two = figures["classes"]["class 1"], figures["classes"]["class 2"]
    assert (one["images"], two["images"], two["share"]) == (3, 2, 0.5)
    assert one["area"]["median"] == 100  # of 40, 200 and 100 pixels
    assert one["share_of_image"] == pytest.approx((40 + 200 + 100) / 3 / 800)
    assert figures["combinations"][0] == {"classes": ["class 1", "class 2"], "images": 2}
    assert [fold["images"] for fold in figures["folds"]] == [2, 2]
    assert figures["folds"][1] == {"fold": 1, "images": 2, "clean": 0, "classes": {"class 1": 2, "class 2": 1}}
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
    survey = survey_pixels(ShardReader(handmade), np.arange(4))
    second = survey.heat[1]  # covers the right half of image 2 and the second quarter of image 3
    assert second.shape == (48, 96)
    assert second[24, [5, 35, 90]] == pytest.approx([0, 0.5, 0.5])
    assert second[2].max() == 0


def test_page_carries_its_pictures_and_escapes_names(explored) -> None:
    _, out = explored
    page = (out / "index.html").read_text()
    assert {path.name for path in out.iterdir()} == {"index.html", "figures.json"}
    sources = re.findall(r'src="([^"]{0,22})', page)
    assert len(sources) > 8
    assert all(source.startswith("data:image/") for source in sources)
    assert "&lt;shards&gt;" in page
    assert "<shards>" not in page
    assert "images/0000.png" not in HTMLParserText.of(page)  # captions are in the pictures
    for heading in ("Classes", "Gray levels", "Folds", "Duplicates"):
        assert heading in HTMLParserText.of(page)


class HTMLParserText(HTMLParser):
    """The text of a page; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open = "", []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

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


def test_table_cells_are_escaped() -> None:
    page = Page("t", "w")
    page.table(("a & b",), [["<i>"]])
    assert "<td>&lt;i&gt;</td>" in page.html()


def test_what_is_shown_of_many_is_not_counted_for_all(tmp_path) -> None:
    """23 sizes, of which 8 are listed; groups of 12 and 7 images, of which 6 are shown; 25 regions, one bar for 20."""
    sizes = [(16 + number // 2, 32) for number in range(46)]
    masks = [np.zeros(size, np.uint8) for size in sizes]
    masks[0][1:11:2, 1:11:2] = 1  # 5 x 5 separate pixels
    groups = [0] * 12 + [1] * 7 + list(range(2, 29))
    shards = make_shards(tmp_path / "s", [np.full(size, 90, np.uint8) for size in sizes], masks, groups=groups)
    figures = explore(shards, tmp_path / "out")
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
    reader = ShardReader(make_shards(tmp_path / "s", [np.full((10, 20), 90, np.uint8)], [mask]))
    assert survey_pixels(reader, np.arange(1)).regions.tolist() == [[2, 0, 0]]


def test_black_is_what_crops_take_for_beside_the_strip(tmp_path) -> None:
    image = np.full((16, 64), BLACK_LEVEL + 1, np.uint8)
    image[:, :32] = BLACK_LEVEL
    clean = np.zeros_like(image)
    survey = survey_pixels(ShardReader(make_shards(tmp_path / "s", [image], [clean])), np.arange(1))
    assert (survey.black.tolist(), survey.mean.tolist()) == ([0.5], [BLACK_LEVEL + 1])
    lefts = [place_window(Random(n), image, clean, (16, 32), target_class=0, max_black=0.0).left for n in range(40)]
    assert np.mean(lefts) > 24  # of 0 to 32: the right half is not black


def test_only_clean_images_and_a_part_of_the_images(tmp_path) -> None:
    images = [np.full((16, 32), 90, np.uint8)] * 5
    shards = make_shards(tmp_path / "s", images, [np.zeros((16, 32), np.uint8)] * 5)
    figures = explore(shards, tmp_path / "out", max_images=2)
    assert figures["pixels"]["images"] == 2
    assert figures["combinations"] == [{"classes": [], "images": 5}]


def test_examples_go_from_small_to_large(handmade) -> None:
    index = ShardReader(handmade).index
    assert choose_examples(index, 1, 6) == [1, 3, 2]
    assert choose_examples(index, 1, 1) == [3]
    assert choose_examples(index, None, 2) == [0]


@pytest.mark.parametrize("options", [["missing"], ["--max-images", "0"]])
def test_command_refuses_what_it_cannot_read(handmade, tmp_path, capsys, options) -> None:
    shards = str(tmp_path / "missing") if options == ["missing"] else str(handmade)
    arguments = [] if options == ["missing"] else options
    assert main(["explore", shards, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
