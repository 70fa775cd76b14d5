"""What the sections of the report share."""

from collections.abc import Sequence

from steel.reports.html.charts import class_style
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, escape, heading, join, tag

PERCENT = ".1%"
SCORE = ".4f"


def class_name(name: str, class_index: int) -> Markup:
    """A name with the colour of its class; -1 for what is none."""
    if class_index < 0:
        return escape(name)
    return join([tag("span", class_="swatch", style=class_style(class_index), aria_hidden="true"), "\u00a0", name])


def tile(what: str, value: object, note: object = "") -> Markup:
    """A large figure under its name, with a line of small print."""
    small = tag("span", note, class_="what") if note else ""
    return tag("div", tag("span", what, class_="what"), tag("b", value), small, class_="tile")


def tinted_table(
    page: Figures,
    keys: Sequence[str],
    names: Sequence[object],
    heads: Sequence[object],
    shares: Sequence[Sequence[float]],
    caption: str,
) -> Markup:
    """A square table of the numbers under `keys`, tinted by their shares, 0 to 1.

    Args:
        page: the numbers.
        keys: where the rows of the table are.
        names: of the rows.
        heads: of the columns, that of the names first.
        shares: of the tint, by [row][column].
        caption: of the table.
    """
    lines = []
    for i, row in enumerate(shares):
        cells = [
            tag("td", page.show(*keys, i, j), style=f"--share:{share:.3f}", class_=None if share else "zero")
            for j, share in enumerate(row)
        ]
        lines.append(tag("tr", heading(names[i], "row"), *cells))
    head = tag("tr", *(heading(name, "col") for name in heads))
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *lines), class_="matrix")
    return tag("div", inner, class_="wide", tabindex=0, role="region", aria_label=caption)
