"""Charts as SVG from numbers: text stays text, colours follow the page, lines differ by their dashes, too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steel.images.class_colours import hex_colour
from steel.reports.html.markup import Markup, tag, void
from steel.reports.html.row_labels import LEFT, row_label

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 18, 10, 38  # right of the axis there is room for half of its last tick
PLOT_BOX = (_LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM)
"""Left, right, top and bottom of the area inside a line chart's axes."""
_PALEST, _RANGE = 0.06, 0.9
"""Opacity of the least value of a grid, and what the most has beyond it."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3")

UNIT = tuple((value / 4, f"{value / 4:g}") for value in range(5))
"""Ticks of an axis from 0 to 1."""


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float | None]]
    """(x, y); lines break where there is no y."""
    class_index: int | None = None
    """Gives the colour; None for what is no class."""
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis."""

    label: str
    ticks: Sequence[tuple[float, str]] = UNIT
    low: float = 0.0
    high: float = 1.0

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two pixels."""
        return start + (value - self.low) / ((self.high - self.low) or 1) * (end - start)


def class_style(class_index: int | None) -> str:
    """CSS that gives an element its class's colour."""
    return "--c:var(--ink)" if class_index is None else f"--c:{hex_colour(class_index + 1)}"


def dashes(class_index: int | None) -> str:
    """The dash pattern of a class's lines."""
    return "" if class_index is None else _DASHES[class_index % len(_DASHES)]


def line_chart(
    title: str, x: Axis, y: Axis, series: Sequence[Series], *, diagonal: bool = False, extra: object = ""
) -> Markup:
    """Lines over an axis, with a legend below where there are several; says so where there is nothing to draw."""
    drawn = [one for one in series if any(value is not None for _, value in one.points)]
    if not drawn:
        return _panel(title, tag("p", "Nothing to draw: no image here has what this would show.", class_="note"))
    parts = [_frame(x, y)]
    if diagonal:
        start, end = _at(x, y, x.low, y.low), _at(x, y, x.high, y.high)
        parts.append(void("line", class_="guide", x1=start[0], y1=start[1], x2=end[0], y2=end[1]))
    parts += [_line(x, y, one) for one in drawn]
    legend = Markup("")
    if len(drawn) > 1 or drawn[0].name:
        legend = tag("ul", *(legend_entry(one.name, one.class_index) for one in drawn), class_="legend")
    return _panel(title, _svg(title, *parts, extra), legend)


def interval_chart(
    title: str, rows: Sequence[tuple[str, float | None, tuple[float, float] | None, float | None, int | None]]
) -> Markup:
    """Scores from 0 to 1, a row each: (name, value, interval, floor, class index); the floor is a hollow mark."""
    top, y = 8, 8.0
    labels = [row_label(name) for name, *_ in rows]
    steps = [max(30, label.height + 8) for label in labels]
    height = top + sum(steps) + 30
    axis = Axis("", UNIT)
    left, right = LEFT, WIDTH - 14

    def at(value: float) -> float:
        return round(axis.place(value, left, right), 1)

    parts = []
    for value, text in UNIT:
        parts.append(void("line", class_="grid", x1=at(value), x2=at(value), y1=top, y2=height - 26))
        parts.append(tag("text", text, class_="tick", x=at(value), y=height - 10, text_anchor="middle"))
    for label, step, (_, score, span, floor, class_index) in zip(labels, steps, rows, strict=True):
        y += step / 2
        parts.append(label.draw(y))
        style = class_style(class_index)
        if span is not None:
            parts.append(void("line", class_="whisker", style=style, x1=at(span[0]), x2=at(span[1]), y1=y, y2=y))
        if floor is not None:
            parts.append(void("path", class_="floor", d=f"M{at(floor)} {y - 9}V{y + 9}"))
        if score is not None:
            parts.append(void("circle", class_="dot", style=style, cx=at(score), cy=y, r=5))
        y += step / 2
    return _panel(title, _svg(title, *parts, height=height))


def heat_chart(
    title: str,
    x: Axis,
    y_ticks: Sequence[str],
    y_label: str,
    values: Sequence[Sequence[float]],
    chosen: tuple[int, int],
    class_index: int,
    scale: object,
) -> Markup:
    """A grid of (row, column) values from pale (the least) to strong (the most), rows from the bottom up.

    Args:
        title: of the chart.
        x: `ticks` are (column, text).
        y_ticks: a text for each row.
        y_label: of the rows.
        values: by [row][column].
        chosen: (row, column) to mark.
        class_index: gives the colour.
        scale: what stands below: which values the palest and the strongest are.
    """
    low, high = min(map(min, values)), max(map(max, values))
    columns, rows = len(values[0]), len(values)
    left, right, top, bottom = 64, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    wide, tall = (right - left) / columns, (bottom - top) / rows
    parts = []
    for i, row in enumerate(values):
        y = bottom - (i + 1) * tall
        parts.append(
            tag("text", y_ticks[i], class_="tick", x=left - 6, y=round(y + tall / 2 + 4, 1), text_anchor="end")
        )
        for j, value in enumerate(row):
            share = (value - low) / (high - low) if high > low else 0.5
            parts.append(
                void(
                    "rect",
                    class_="heat",
                    x=round(left + j * wide, 1),
                    y=round(y, 1),
                    width=round(wide, 1),
                    height=round(tall, 1),
                    style=f"{class_style(class_index)};fill-opacity:{_PALEST + _RANGE * share:.2f}",
                )
            )
    for column, text in x.ticks:
        place = round(left + (column + 0.5) * wide, 1)
        parts.append(tag("text", text, class_="tick", x=place, y=bottom + 15, text_anchor="middle"))
    i, j = chosen
    parts.append(
        void(
            "rect",
            class_="chosen",
            x=round(left + j * wide, 1),
            y=round(bottom - (i + 1) * tall, 1),
            width=round(wide, 1),
            height=round(tall, 1),
        )
    )
    parts += _labels(x.label, y_label, left, right)
    return _panel(title, _svg(title, *parts), tag("p", scale, class_="scale"))


def heat_sample(class_index: int, share: float) -> Markup:
    """The colour of a value in a grid, from 0, the least, to 1."""
    style = f"{class_style(class_index)};fill-opacity:{_PALEST + _RANGE * share:.2f}"
    cell = void("rect", class_="heat", style=style, width=22, height=11)
    return tag("svg", cell, viewBox="0 0 22 11", width=22, height=11, aria_hidden="true")


def legend_entry(name: str, class_index: int | None, *values: object) -> Markup:
    """A line's sample with its name."""
    sample = tag(
        "svg",
        void(
            "line",
            class_="line",
            style=class_style(class_index),
            x1=0,
            y1=5,
            x2=26,
            y2=5,
            stroke_dasharray=dashes(class_index) or None,
        ),
        viewBox="0 0 26 10",
        width=26,
        height=10,
        aria_hidden="true",
    )
    return tag("li", sample, " ", name, *values)


def octave_text(octave: int) -> str:
    """2^octave as an axis has room for: 64, 1k, 32k, 1M."""
    if octave < 0:
        return "0"
    return f"{2**octave}" if octave < 10 else (f"{2 ** (octave - 10)}k" if octave < 20 else f"{2 ** (octave - 20)}M")


def octave_ticks(octaves: Sequence[int], most: int = 7) -> list[tuple[float, str]]:
    """Ticks at some of the octaves."""
    step = max(1, math.ceil(len(octaves) / most))
    return [(octave, octave_text(octave)) for octave in octaves[::step]]


def round_step(least: float) -> float:
    """The next larger one of 1, 2, 2.5, 5, 10, 20, 25, ... or of their tenths, hundredths, ...: a step of an axis."""
    unit = 10.0 ** math.floor(math.log10(least))
    return next(unit * step for step in (1, 2, 2.5, 5, 10) if unit * step >= least * (1 - 1e-9))


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers at equal steps between two, up to six."""
    step = round_step((high - low) / 5)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _panel(title: str, *content: object) -> Markup:
    return tag("figure", tag("figcaption", title), *content, class_="chart")


def _svg(title: str, *parts: object, height: float = HEIGHT) -> Markup:
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {WIDTH} {height}", role="img")


def _at(x: Axis, y: Axis, across: float, up: float) -> tuple[float, float]:
    return (
        round(x.place(across, _LEFT, WIDTH - _RIGHT), 1),
        round(y.place(up, HEIGHT - _BOTTOM, _TOP), 1),
    )


def _frame(x: Axis, y: Axis) -> Markup:
    parts = []
    for value, text in x.ticks:
        place, bottom = _at(x, y, value, y.low)
        parts.append(void("line", class_="grid", x1=place, x2=place, y1=_TOP, y2=bottom))
        parts.append(tag("text", text, class_="tick", x=place, y=bottom + 15, text_anchor="middle"))
    for value, text in y.ticks:
        left, place = _at(x, y, x.low, value)
        parts.append(void("line", class_="grid", x1=left, x2=WIDTH - _RIGHT, y1=place, y2=place))
        parts.append(tag("text", text, class_="tick", x=left - 6, y=place + 4, text_anchor="end"))
    parts += _labels(x.label, y.label, _LEFT, WIDTH - _RIGHT)
    return Markup("".join(parts))


def _labels(x: str, y: str, left: float, right: float) -> list[Markup]:
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    return [
        tag("text", x, class_="label", x=(left + right) / 2, y=HEIGHT - 6, text_anchor="middle"),
        tag("text", y, class_="label", x=0, y=0, text_anchor="middle", transform=f"translate(12 {middle}) rotate(-90)"),
    ]


def _line(x: Axis, y: Axis, series: Series) -> Markup:
    style = class_style(series.class_index)
    places = [None if up is None else _at(x, y, across, up) for across, up in series.points]
    steps, pen_down = [], False
    for place in places:
        if place is not None:
            steps.append(f"{'L' if pen_down else 'M'}{place[0]} {place[1]}")
        pen_down = place is not None
    path = void(
        "path", class_="line", style=style, d="".join(steps), stroke_dasharray=dashes(series.class_index) or None
    )
    dots = [
        void("circle", class_="dot", style=style, cx=place[0], cy=place[1], r=3.5)
        for place in places
        if series.dots and place is not None
    ]
    return Markup(path + "".join(dots))
