"""Names of a chart's rows, whole: in as many lines as each takes."""

from typing import NamedTuple

from steel.images.contact_sheet import wrap
from steel.reports.html.markup import Markup, tag

LEFT = 132
"""Where the bars begin: the names stand left of it."""
_LINE, _GAP = 14, 8


class RowLabel(NamedTuple):
    """A name in lines."""

    name: str
    lines: tuple[str, ...]

    @property
    def height(self) -> int:
        """Of the lines, in the chart's pixels."""
        return _LINE * len(self.lines)

    def draw(self, middle: float) -> Markup:
        """The lines around a height, with the name in a line as what a pointer over them is told."""
        top = middle - self.height / 2 + 11
        lines = [tag("tspan", line, x=LEFT - _GAP, y=round(top + _LINE * i, 1)) for i, line in enumerate(self.lines)]
        return tag("text", tag("title", self.name), *lines, class_="label", text_anchor="end")


def row_label(name: str) -> RowLabel:
    """The name in lines that fit. They are measured in a larger font than the page's, which may be a wider one."""
    return RowLabel(name, tuple(wrap(name, LEFT - _GAP)) or (name,))
