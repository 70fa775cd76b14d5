"""What `steel explore` found, as tests read it: the text of its page, and its findings."""

from html.parser import HTMLParser
from typing import Any


class PageText(HTMLParser):
    """The text of a page; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open = "", []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        pass

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data

    @classmethod
    def of(cls, page: str) -> str:
        parser = cls()
        parser.feed(page)
        assert not parser.open
        return parser.text


def titles(figures: dict[str, Any]) -> dict[str, list[str]]:
    """The findings with their images."""
    return {finding["title"]: finding["images"] for finding in figures["findings"]}
