"""A whole page: head, style, sections with a table of contents, script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from steel.reports.html.markup import Markup, escape, tag

_WITHOUT_SCRIPT = ".controls, .operating, .name.true { display: none; }"
"""What would be dead or empty, and names that would cover others, where a browser runs no script."""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    name: str
    """Its anchor."""
    heading: str
    content: Markup


def document(title: str, subtitle: Markup, sections: Sequence[Section], data: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        title: of the page.
        subtitle: the line below it.
        sections: in their order.
        data: for the script, by the ids of the elements that hold it.
    """
    contents = tag(
        "nav", *(tag("a", one.heading, href=f"#{one.name}") for one in sections), aria_label="Parts of the report"
    )
    body = [tag("section", tag("h2", one.heading), one.content, id=one.name) for one in sections]
    stored = [
        tag("script", Markup(_inside_script(values)), type="application/json", id=name) for name, values in data.items()
    ]
    # The empty icon keeps the browser from asking for one.
    head = (
        f'<meta charset="utf-8"><title>{escape(title)}</title><meta name="viewport" content="width=device-width">'
        f'<link rel="icon" href="data:,"><style>{_asset("page.css")}</style>'
        f"<noscript><style>{_WITHOUT_SCRIPT}</style></noscript>"
    )
    main = tag("main", tag("header", tag("h1", title), tag("p", subtitle, class_="where"), contents), *body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n'
        f"<body>{main}{''.join(stored)}<script>{_asset('page.js')}</script></body>\n</html>\n"
    )


def _inside_script(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
