"""A plain HTML page that carries its pictures inside."""

import base64
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d232b; background: #f3f5f7; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 8px 0 0; } h2 { font-size: 19px; margin: 0 0 12px; }
.where { color: #66707c; margin: 0 0 20px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid #dfe4e9; border-radius: 8px; padding: 18px 20px; margin: 0 0 18px; }
dl { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 0; }
dt { color: #66707c; font-size: 13px; } dd { margin: 0; font-weight: 600; }
img { max-width: 100%; display: block; margin: 0 0 10px; border-radius: 4px; }
figure { margin: 0; } figcaption { font-weight: 600; margin: 8px 0 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 4px 0 10px; }
th, td { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid #e8ecf0; }
th:first-child, td:first-child { text-align: left; } th { color: #66707c; font-weight: 500; font-size: 13px; }
.note { color: #66707c; margin: 0 0 8px; }
"""


class Page:
    """A page under construction: sections with a heading each, in the order in which they are added."""

    def __init__(self, title: str, where: str) -> None:
        self._title, self._where = html.escape(title), html.escape(where)
        self._sections: list[list[str]] = [[]]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._sections.append([f"<h2>{html.escape(text)}</h2>"])

    def note(self, text: str) -> None:
        """A line of small print."""
        self._add(f'<p class="note">{html.escape(text)}</p>')

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Names with a short value each, side by side."""
        items = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in pairs
        )
        self._add(f"<dl>{items}</dl>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; first column left, numbers right."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        self._add(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, data: bytes, description: str, caption: str | None = None) -> None:
        """A PNG or JPEG, given as the file's bytes."""
        kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        label = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self._add(f'<figure>{label}<img alt="{html.escape(description)}" src="{source}"></figure>')

    def html(self) -> str:
        """The whole page."""
        sections = "\n".join(f"<section>{''.join(parts)}</section>" for parts in self._sections if parts)
        return (
            f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{self._title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
            f'<body><main><h1>{self._title}</h1><p class="where">{self._where}</p>\n'
            f"{sections}\n</main></body>\n</html>\n"
        )

    def _add(self, part: str) -> None:
        self._sections[-1].append(part)
