"""Bar charts as SVG, for counts."""

from collections.abc import Sequence

from steel.reports.html.charts import HEIGHT, PLOT_BOX, WIDTH, class_style
from steel.reports.html.markup import Markup, tag, void
from steel.reports.html.row_labels import LEFT, row_label

_ROW, _BAR = 26, 18


def bar_list(title: str, rows: Sequence[tuple[str, int, int | None]]) -> Markup:
    """Counts under names, a bar each from the left: (name, count, class index)."""
    left, right, y = LEFT, WIDTH - 52, 6
    most = max((count for _, count, _ in rows), default=0) or 1
    parts = []
    for name, count, class_index in rows:
        label = row_label(name)
        tall = max(_ROW, label.height + 6)
        middle, end = y + tall / 2, left + (right - left) * count / most
        bar = {"x": left, "y": middle - _BAR / 2, "width": round(end - left, 1), "height": _BAR}
        parts.append(label.draw(middle))
        parts.append(void("rect", class_="heat", style=class_style(class_index), **bar))
        parts.append(tag("text", f"{count:,}", class_="label", x=round(end + 6, 1), y=middle + 4))
        y += tall
    return _figure(title, parts, y + 6)


def histogram(title: str, label: str, bins: Sequence[tuple[str, int]], class_index: int | None) -> Markup:
    """Counts in bins side by side, each under its text; every one stands above its bar as far as there is room."""
    left, right, top, bottom = PLOT_BOX
    most = max((count for _, count in bins), default=0) or 1
    wide = (right - left) / max(1, len(bins))
    every = max(1, -(-len(bins) // 9))
    parts = []
    for number, (text, count) in enumerate(bins):
        x, middle = left + wide * number, left + wide * (number + 0.5)
        y = bottom - (bottom - top - 14) * count / most
        bar = {"x": round(x + 0.08 * wide, 1), "y": round(y, 1), "width": round(0.84 * wide, 1)}
        if count:
            height = round(bottom - y, 1)
            parts.append(void("rect", class_="heat", style=class_style(class_index), height=height, **bar))
        if count and len(bins) <= 14:
            parts.append(
                tag("text", f"{count:,}", class_="tick", x=round(middle, 1), y=round(y - 3, 1), text_anchor="middle")
            )
        if number % every == 0:
            parts.append(tag("text", text, class_="tick", x=round(middle, 1), y=bottom + 15, text_anchor="middle"))
    parts.append(void("line", class_="grid", x1=left, x2=right, y1=bottom, y2=bottom))
    parts.append(tag("text", label, class_="label", x=(left + right) / 2, y=HEIGHT - 6, text_anchor="middle"))
    return _figure(title, parts, HEIGHT)


def _figure(title: str, parts: Sequence[Markup], height: float) -> Markup:
    drawing = tag("svg", tag("title", title), *parts, viewBox=f"0 0 {WIDTH} {height}", role="img")
    return tag("figure", tag("figcaption", title), drawing, class_="chart")
