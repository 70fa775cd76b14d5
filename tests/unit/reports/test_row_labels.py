"""Names of a chart's rows are whole, however long."""

import itertools
import re
from html import unescape

import pytest
from PIL import ImageFont

from steel.reports.html.bars import bar_list
from steel.reports.html.charts import interval_chart

NAMES = [
    "clean",
    "crazing",
    "rolled-in scale near the strip's edge + inclusions of slag + scratches",
    "Donaudampfschifffahrtsgesellschaftskapitaensmuetze",
    "W" * 30,
    "a & b <c>",
]


@pytest.fixture(params=["bars", "intervals"])
def chart(request: pytest.FixtureRequest) -> str:
    if request.param == "bars":
        return bar_list("Images", [(name, 3 + n, n) for n, name in enumerate(NAMES)])
    return interval_chart("Dice", [(name, 0.5, (0.4, 0.6), 0.1, n) for n, name in enumerate(NAMES)])


def lines_of(chart: str) -> list[list[tuple[float, str]]]:
    """Of each name its lines with their heights, as they are drawn."""
    texts = re.findall(r'<text class="label" text-anchor="end"><title>.*?</text>', chart)
    return [
        [(float(y), unescape(line)) for y, line in re.findall(r'<tspan x="[\d.]+" y="([\d.]+)">([^<]*)<', text)]
        for text in texts
    ]


def test_each_name_is_whole_and_also_a_title(chart: str) -> None:
    assert ["".join(line for _, line in lines).replace(" ", "") for lines in lines_of(chart)] == [
        name.replace(" ", "") for name in NAMES
    ]
    assert [unescape(title) for title in re.findall(r'text-anchor="end"><title>(.*?)</title>', chart)] == NAMES
    assert "…" not in chart


def test_lines_fit_beside_the_bars_and_stand_apart(chart: str) -> None:
    font = ImageFont.load_default(11.5)
    heights = [y for lines in lines_of(chart) for y, _ in lines]
    assert all(later - earlier >= 14 for earlier, later in itertools.pairwise(heights))
    box = float(re.findall(r'viewBox="0 0 360 ([\d.]+)"', chart)[0])
    assert heights[0] > 10 and heights[-1] < box
    # Browsers' fonts are up to a sixth wider than the one that is at hand here.
    assert all(font.getlength(line.strip()) * 7 / 6 <= 124 for lines in lines_of(chart) for _, line in lines)
