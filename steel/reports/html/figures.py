"""Numbers on a page, each with the place in `metrics.json` or `per_image.csv` that it was taken from.

A page shows no number of its own: `Figures` looks a value up and marks it, so that a reader, a script or a test can
follow `data-from` (a JSON pointer) or `data-row` and `data-column` back to the file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from steel.labels.classes import ANY
from steel.reports.html.markup import Markup, tag

MISSING = "–"
UNMEASURED = "no value: nothing to measure it on"


def percent(share: float, digits: int = 0) -> str:
    """A share as every page has it: `10.6 %`."""
    return f"{share:.{digits}%}".replace("%", " %")


def pointer(*keys: object) -> str:
    """A JSON pointer (RFC 6901) from its keys."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


class Figures:
    """The values of one `metrics.json`, or of another file of numbers."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return list(self.metrics["dice_per_class"])

    @property
    def all_names(self) -> list[str]:
        """Of the classes, after that of any defect."""
        return [ANY, *self.names]

    def value(self, *keys: Any) -> Any:
        """What stands under the keys."""
        found: Any = self.metrics
        for key in keys:
            found = found[key]
        return found

    def show(self, *keys: Any, form: str = ",", none_means: str = UNMEASURED) -> Markup:
        """A number, formatted, or a text as it is; where there is none a dash, which says what that means."""
        value = self.value(*keys)
        if value is None:
            return tag("span", MISSING, class_="none", title=none_means)
        text = value if isinstance(value, str) else format(value, form).replace("%", " %")
        return tag("data", text, value=value, data_from=pointer(*keys))

    def probability(self, *keys: Any) -> Markup:
        """A probability that the file has in 255ths, as every other page and program shows it: from 0 to 1."""
        value = self.value(*keys)
        return tag("data", f"{value / 255:.3f}", value=value, data_from=pointer(*keys), data_of=255)

    def span(self, *keys: Any, form: str = ".3f", none_means: str = UNMEASURED) -> Markup:
        """An interval, `low to high`; a dash, as of `show`, where there is none."""
        if self.value(*keys) is None:
            return self.show(*keys, none_means=none_means)
        return tag("span", self.show(*keys, 0, form=form), " to ", self.show(*keys, 1, form=form), class_="interval")

    def texts(self, *keys: Any) -> Markup:
        """A list on one line."""
        values: Sequence[Any] = self.value(*keys)
        parts = [self.show(*keys, i, form="") for i in range(len(values))]
        return Markup(", ".join(parts)) if parts else Markup("none")


def cell(values: Mapping[str, Any], column: str, form: str = ",") -> Markup:
    """A value of a row of `per_image.csv`."""
    value = values[column]
    text = value if isinstance(value, str) else format(value, form)
    return tag("data", text, value=value, data_row=values["image_id"], data_column=column)
