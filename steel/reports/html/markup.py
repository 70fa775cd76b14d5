"""Pieces of HTML as strings. `Markup` is text that is HTML already; everything else is escaped on its way in."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Markup(str):
    """HTML, as it is."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Any value as HTML text; markup stays."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after another."""
    return Markup(between.join(escape(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """`<name attributes>content</name>`; a trailing underscore is dropped from attributes, others become dashes, and
    those that are None or False are left out."""
    return Markup(f"<{name}{_attributes(attributes)}>{join(content)}</{name}>")


def void(name: str, **attributes: object) -> Markup:
    """`<name attributes/>`, an element without content, of HTML or SVG."""
    return Markup(f"<{name}{_attributes(attributes)}/>")


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str, **attributes: object) -> Markup:
    """A table that scrolls inside its own box where it is wider than the page; first column left, the others right."""
    head = tag("tr", *(heading(cell, "col") for cell in header))
    body = [tag("tr", heading(row[0], "row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), **attributes)
    return tag("div", inner, class_="wide", tabindex=0, role="region", aria_label=caption)


def heading(content: object, scope: str) -> Markup:
    """The heading of a table's row or column; the page's style gives it lines, where it is long."""
    return tag("th", tag("span", content, class_="head"), scope=scope)


def definitions(pairs: Mapping[str, object]) -> Markup:
    """Names with a value each."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items()))


def _attributes(attributes: Mapping[str, Any]) -> str:
    parts = []
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {name}")
        elif value is not None and value is not False:
            parts.append(f' {name}="{html.escape(str(value))}"')
    return "".join(parts)
