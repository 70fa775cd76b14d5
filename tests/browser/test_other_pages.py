"""The pages of `steel compare`, `steel explore` and `train.crossval` in a headless Chromium."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steel.cli import main
from steel.reports.explore import explore
from steel.reports.explore_data import data_of_shards
from tests.browser.looking import BLANK, LOADED, LUMINANCE, MARKS, VIEW_NAMES, VIEWS, fits, opened
from tests.crossval_page import write_crossval_page
from tests.known_faults import evaluate_known_faults
from tests.shard_folder import make_shards

pytestmark = MARKS


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
    return {
        "compare": folder / "compare.html",
        "explore": folder / "data" / "index.html",
        "crossval": folder / "crossval" / "report" / "report.html",
    }


@pytest.mark.parametrize("view", VIEWS, ids=VIEW_NAMES)
@pytest.mark.parametrize("name", ["compare", "explore", "crossval"])
def test_it_fits_every_picture_loads_and_text_can_be_read(
    name: str, view: tuple[int, str], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[name], view) as page:
        assert fits(page)
        widths = page.evaluate(LOADED)
        assert len(widths) >= {"compare": 1, "explore": 20, "crossval": 0}[name] and min(widths, default=1) > 0
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate(LUMINANCE) == []
        assert page.evaluate(BLANK) == 0
