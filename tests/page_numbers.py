"""Whether every number on a page is one of the files behind it."""

import re
from collections.abc import Collection, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest


class Numbers(HTMLParser):
    """The text of a page, apart from what is data; and the data."""

    QUIET = ("script", "style", "title", "option")

    def __init__(self) -> None:
        super().__init__()
        self.data: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link"):
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if not data.strip() or any(tag in self.QUIET for tag in tags):
            return
        if "data" in tags:
            self.data.append((self._open[tags.index("data")][1], data))
        elif not any("tick" in (attributes.get("class") or "").split() for _, attributes in self._open):
            self.texts.append(data)


def shown_as(text: str, value: Any) -> bool:
    """Whether a text is a value, rounded: half a unit of the last shown digit off at most."""
    if isinstance(value, str):
        return text == value
    number = text.replace(",", "").replace("+", "")
    scale = 100 if number.endswith(" %") else 1
    number = number.removesuffix(" %")
    if "e" in number or float(number) == float(value):
        return float(number) == pytest.approx(float(value), rel=1e-3)
    if "." not in number:
        return round(float(value) * scale) == int(number)
    half_unit = 0.500001 * 10 ** -len(number.split(".")[1])
    return abs(float(number) - float(value) * scale) <= half_unit


def check_numbers(
    page: str,
    metrics: Mapping[str, Any],
    *,
    rows: Mapping[str, Mapping[str, str]],
    lines: Sequence[Mapping[str, str]] = (),
    known: Collection[str] = (),
) -> int:
    """Fail for a number that is not where it says to be from, or that stands in the text.

    Args:
        page: as text.
        metrics: of `metrics.json`.
        rows: of `per_image.csv`, by image.
        lines: of `label_doubts.csv`.
        known: words with digits in them that are no numbers.

    Returns:
        How many numbers there are.
    """
    numbers = Numbers()
    numbers.feed(page)
    for attributes, text in numbers.data:
        if attributes.get("data-from"):
            value: Any = metrics
            for key in (attributes["data-from"] or "").split("/")[1:]:
                name = key.replace("~1", "/").replace("~0", "~")
                value = value[int(name) if isinstance(value, list) else name]
        elif attributes.get("data-region"):
            value = rows[attributes["data-row"] or ""]["regions"].split("; ")[int(attributes["data-region"] or "")]
        elif attributes.get("data-row"):
            value = rows[attributes["data-row"] or ""][attributes["data-column"] or ""]
        else:
            value = lines[int(attributes["data-line"] or "")][attributes["data-column"] or ""]
        if attributes.get("data-of"):
            value = value / float(attributes["data-of"] or "")
        if isinstance(value, str) and re.fullmatch(r"-?[\d.]+", value):
            value = float(value)
        assert shown_as(text, value), (attributes, text, value)
    # What is left has no number but names of classes, files and options, and the confidence of intervals.
    words = {*known, *metrics["dice_per_class"], *metrics.get("recipe", ()), *rows}
    words |= {"95 %", "probability of 0.7", "70 of 100", "head F1"}
    for text in numbers.texts:
        rest = text
        for word in sorted(words, key=len, reverse=True):
            rest = rest.replace(word, "")
        assert not re.search(r"\d", rest), text
    return len(numbers.data)
