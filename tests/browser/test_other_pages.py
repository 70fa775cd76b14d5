"""The pages of `steel compare`, `steel explore`, `train.crossval` and an ensemble in a headless Chromium."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steel.cli import main
from steel.reports.explore import explore
from steel.reports.explore_data import data_of_shards
from tests.browser.looking import (
    BLANK,
    LOADED,
    LUMINANCE,
    MARKS,
    check_keyboard,
    fits,
    focused,
    opened,
    scrolled_right,
)
from tests.crossval_page import write_crossval_page
from tests.ensemble_page import write_ensemble_page
from tests.known_faults import evaluate_known_faults
from tests.shard_folder import make_shards

pytestmark = MARKS

EVERY_PAGE = pytest.mark.parametrize("name", ["compare", "explore", "crossval", "ensemble"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A comparison of a report with one that differs in some images; a data set with strips, tall and tiny images."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = (evaluate_known_faults(folder / name).out for name in ("first", "second"))
    table = second / "per_image.csv"
    table.write_text(table.read_text().replace(",miss,0.666667,", ",found,0.9,"))
    assert main(["compare", str(first), str(second), "--out", str(folder / "compare.html")]) == 0

    sizes = [(64, 400), (300, 40), (16, 16), (60, 80)] * 8
    masks = [np.zeros(size, np.uint8) for size in sizes]
    for n, mask in enumerate(masks):
        mask[2 : 4 + n % 9, 2:9] = n % 4
    masks[5][0, 0] = 1
    shards = make_shards(folder / "shards", [np.full(size, 90 + n, np.uint8) for n, size in enumerate(sizes)], masks)
    explore(data_of_shards(shards), folder / "data")
    write_crossval_page(folder / "crossval")
    write_ensemble_page(folder / "ensemble")
    return {
        "compare": folder / "compare.html",
        "explore": folder / "data" / "index.html",
        "crossval": folder / "crossval" / "report" / "report.html",
        "ensemble": folder / "ensemble" / "report" / "report.html",
    }


@EVERY_PAGE
def test_it_fits_every_picture_loads_and_text_can_be_read(
    name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[name], view) as page:
        assert fits(page)
        widths = page.evaluate(LOADED)
        assert len(widths) >= {"compare": 1, "explore": 20, "crossval": 40, "ensemble": 40}[name] and min(widths) > 0
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate(LUMINANCE) == []
        assert page.evaluate(BLANK) == 0


@EVERY_PAGE
def test_every_control_is_reached_and_seen_by_keyboard(
    name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[name], view) as page:
        check_keyboard(page)
        for number in range(page.locator("summary").count()):
            focused(page, f"[data-control='{page.locator('summary').nth(number).get_attribute('data-control')}']")
            page.keyboard.press("Enter")
        assert page.locator("details:not([open])").count() == 0
        check_keyboard(page)


@EVERY_PAGE
def test_each_part_is_gone_to_by_keyboard(name: str, pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages[name], (400, "light")) as page:
        for target in page.eval_on_selector_all("nav a", "links => links.map((link) => link.getAttribute('href'))"):
            focused(page, f"nav a[href='{target}']")
            page.keyboard.press("Enter")
            page.wait_for_function(
                "(id) => Math.abs(document.querySelector(id).getBoundingClientRect().top) < innerHeight", arg=target
            )
            assert page.evaluate("location.hash") == target


@EVERY_PAGE
def test_tables_that_are_too_wide_are_moved_by_keyboard(name: str, pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages[name], (400, "light")) as page:
        wide = page.eval_on_selector_all(
            ".wide", "all => all.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.getAttribute('aria-label'))"
        )
        assert wide
        for label in wide[:3]:
            table = focused(page, f".wide[aria-label='{label}']")
            page.keyboard.press("ArrowRight")
            scrolled_right(page)
            assert table.evaluate("e => e.scrollLeft") > 0


def test_controls_of_a_cross_validation_work_by_keyboard(
    view: tuple[int, str], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages["crossval"], view) as page:
        slider = focused(page, "#threshold")
        shipped = slider.input_value()
        page.keyboard.press("End")
        assert slider.input_value() == "255" != shipped
        focused(page, "#operating-reset")
        page.keyboard.press("Enter")
        assert page.locator("#threshold").input_value() == shipped
        everything = page.locator(".shot:visible").count()
        focused(page, "#gallery-kind")
        page.keyboard.type("misses")
        assert 0 < page.locator(".shot:visible").count() < everything
        for layer in ("truth", "prediction", "probability", "names"):
            button = focused(page, f"#layer-{layer}")
            before = button.get_attribute("aria-pressed")
            page.keyboard.press("Space")
            assert {before, button.get_attribute("aria-pressed")} == {"true", "false"}
        button = focused(page, ".enlarge")
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-expanded") == "true"
        focused(page, "#labels a")
        page.keyboard.press("Enter")
        target = page.evaluate("location.hash")
        assert target.startswith("#image-") and page.locator(target).is_visible()


@EVERY_PAGE
def test_short_headings_of_tables_have_one_line(
    name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[name], view) as page:
        heads = page.eval_on_selector_all(
            "tbody th", "all => all.map((e) => [e.innerText, e.getBoundingClientRect().height])"
        )
        short = [height for text, height in heads if 0 < len(text) <= 9]
        assert short and min(short) > 20
        lines = page.eval_on_selector_all(
            "tbody .head", "all => all.map((e) => [e.innerText, e.getBoundingClientRect().height])"
        )
        assert all(height < 26 for text, height in lines if len(text) <= 9)


def test_the_comparison_leaves_names_as_they_are(pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages["compare"], (400, "light")) as page:
        verdict = page.locator("p.verdict").first
        assert verdict.evaluate("e => getComputedStyle(e, '::first-letter').textTransform") == "none"
        assert "all others unchanged" not in page.locator("main").inner_text()


@EVERY_PAGE
def test_it_is_printed_dark_on_white_and_whole(name: str, pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages[name], (720, "dark")) as page:  # as wide as what is printed of A4 upright
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        ink = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
        assert max(map(int, ink[4:-1].split(","))) < 64
        cut = page.eval_on_selector_all(
            ".wide", "all => all.filter((e) => e.querySelector('table').offsetWidth > e.clientWidth)"
            ".map((e) => e.innerText.slice(0, 40))"
        )  # fmt: skip
        assert cut == []
        swatches = page.eval_on_selector_all(
            ".swatch, .name", "all => all.map((e) => getComputedStyle(e).printColorAdjust)"
        )
        assert set(swatches) <= {"exact"}
