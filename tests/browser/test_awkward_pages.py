"""Pages of data that nobody's taste made: a dozen classes with long names, markup in them, images as long as a coil."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steel.decision import ClassDecision, Decision
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.reports.evaluation_report import write_evaluation
from steel.reports.explore import explore
from steel.reports.explore_data import data_of_shards
from steel.reports.gallery import RANDOM, TYPICAL, GalleryKeeper, Kept, choose
from steel.shards.format import MANIFEST_NAME
from steel.shards.reader import ShardReader
from tests.browser.looking import BLANK, LOADED, LUMINANCE, MARKS, check_keyboard, fits, opened
from tests.shard_folder import make_shards, steel_image

pytestmark = MARKS

LONG = "Überwalzung mit einem wirklich sehr langen Namen, den niemand kürzen will, aus dem Lasthandbuch"
CLASS_NAMES = (
    'Riß <html> & "quoted" <b>bold</b>', LONG, "Schale/Schuppe~1", "Einschluß_ohne_Leerzeichen_aber_sehr_lang_" * 2,
    "O'Brien's scratch", "Kratzer |  quer", "</script><script>alert(1)</script>", *(f"class {k}" for k in range(8)),
)[:12]  # fmt: skip
SIZES = [(64, 400), (200, 200), (400, 64), (16, 6000), (6000, 16), (8, 8)] * 8
DECISION = Decision((ClassDecision(128, 128),) * 12, "none", 128)


def true_masks(number: int) -> np.ndarray:
    """(12, H, W) bool: a square of one class or two, but for every fourth image; the last class is nowhere."""
    height, width = SIZES[number]
    masks = np.zeros((12, height, width), bool)
    if number % 4:
        side = min(height, width) // 3 + 1
        masks[number % 11, :side, width // 2 : width // 2 + side] = True
        masks[(number + 5) % 11, height // 2 : height // 2 + side, :side] = number % 3 == 0
    return masks


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("awkward")
    truths = [true_masks(n) for n in range(len(SIZES))]
    bitmasks = [sum((mask.astype(np.uint16) << k for k, mask in enumerate(masks))) for masks in truths]
    images = [steel_image(n, *size) for n, size in enumerate(SIZES)]
    shards = make_shards(folder / "shards", images, bitmasks, num_classes=12)
    manifest = json.loads((shards / MANIFEST_NAME).read_text())
    (shards / MANIFEST_NAME).write_text(json.dumps(manifest | {"class_names": CLASS_NAMES}))
    explore(data_of_shards(shards), folder / "data")

    reader, keeper, judged = ShardReader(shards), GalleryKeeper(DECISION, wanted=range(12)), []
    for row, bitmask in enumerate(bitmasks):
        seen = truths[row] if row % 3 else np.roll(truths[row], 1, axis=0)
        labels = np.where([seen.any(), *seen.any(axis=(1, 2))], 230, 20).astype(np.uint8)
        probs = np.where(seen, 240, 4).astype(np.uint8)
        judged.append(image_statistics(row, probs, labels, bitmask, decision=DECISION))
        keeper.offer(judged[-1], bitmask, lambda probs=probs: probs)
    statistics = EvaluationStatistics.from_images(judged, 12, DECISION)
    rows = {**choose([keeper.ranking()]), TYPICAL: list(range(6)), RANDOM: list(range(6, 12))}
    kept = Kept(rows, keeper.layers({row for some in rows.values() for row in some}), sorted(keeper.regions))
    (folder / "report").mkdir()
    write_evaluation(
        folder / "report", statistics, DECISION, reader, kept, folds=[0, 1], role="test", tta=(),
        gates={"none": DECISION}, provenance={"checkpoint": "a" * 200, "data": "shards"},
    )  # fmt: skip
    return {"report": folder / "report" / "report.html", "explore": folder / "data" / "index.html"}


EVERY_PAGE = pytest.mark.parametrize("name", ["report", "explore"])


@EVERY_PAGE
def test_it_fits_and_text_can_be_read(name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages[name], view) as page:
        assert fits(page)
        assert min(page.evaluate(LOADED)) > 0
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert fits(page)
        assert page.evaluate(LUMINANCE) == []
        assert page.evaluate(BLANK) == 0
        check_keyboard(page)


@EVERY_PAGE
def test_names_leave_room_for_numbers(name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages[name], view) as page:
        shares = page.eval_on_selector_all(
            ".wide", "all => all.map((e) => e.querySelector('tbody th').offsetWidth / e.clientWidth)"
        )
        assert max(shares) < 0.6
        right = page.evaluate(
            """() => [...document.querySelectorAll('figcaption, .legend li, select, h3, p')]
                 .filter((e) => e.scrollWidth > e.clientWidth + 1 && e.checkVisibility()).map((e) => e.outerHTML)"""
        )
        assert right == []


def test_every_class_can_be_chosen_by_its_whole_name(pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages["report"], (1280, "light")) as page:
        options = "all => all.map((e) => e.value)"
        assert page.eval_on_selector_all("#operating-class option", options)[1:] == list(CLASS_NAMES)
        assert page.eval_on_selector_all("#gallery-class option", options)[1:] == list(CLASS_NAMES)
        page.select_option("#gallery-class", "Kratzer |  quer")
        assert page.locator(".shot:visible").count() > 0


@pytest.fixture(scope="module")
def tall_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images that are all much higher than wide."""
    folder = tmp_path_factory.mktemp("tall")
    mask = np.zeros((2048, 128), np.uint8)
    mask[500:800, 40:80] = 1
    make_shards(folder / "shards", [steel_image(n, *mask.shape) for n in range(2)], [mask] * 2, num_classes=1)
    explore(data_of_shards(folder / "shards"), folder / "data")
    return folder / "data" / "index.html"


def test_no_picture_of_tall_images_is_higher_than_a_screen(
    view: tuple[int, str], tall_page: Path, browser: Any
) -> None:
    with opened(browser, tall_page, view) as page:
        heights = page.eval_on_selector_all(".shot img", "all => all.map((e) => e.getBoundingClientRect().height)")
        assert len(heights) >= 3 and max(heights) <= 910
        assert page.locator("#places .shot img").count() == 1
        assert fits(page)


@EVERY_PAGE
def test_no_picture_is_higher_than_a_screen_or_too_low(
    name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[name], view) as page:
        heights = page.eval_on_selector_all(".shot img", "all => all.map((e) => e.getBoundingClientRect().height)")
        assert min(heights) > 15 and max(heights) <= 910


def test_a_long_strip_that_is_enlarged_is_looked_along(pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages["report"], (400, "light")) as page:
        strip = page.locator(".shot", has_text="images/0003.png")
        strip.locator(".enlarge").click()
        assert strip.locator("img").first.bounding_box()["height"] >= 100
        assert strip.evaluate("e => e.scrollWidth > 10 * e.clientWidth")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelector('.shot.large').scrollLeft > 0")
        assert strip.locator("figcaption").bounding_box()["x"] >= 0
        assert fits(page)
