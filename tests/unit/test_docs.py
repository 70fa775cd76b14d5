"""The documents: each is in the site's list, and what they link to is there. Without mkdocs, which `make docs` runs."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.pictures import SECTIONS
from steel import __version__
from tests.paths import ROOT

FOLDERS = ("docs", "launch", "bench")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + [
    page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))
]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def listed(entry: Any) -> list[str]:
    """The pages of an entry of the site's list, those below it included."""
    if isinstance(entry, str):
        return [entry]
    return [page for one in (entry if isinstance(entry, list) else entry.values()) for page in listed(one)]


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def targets(page: Path) -> list[str]:
    """What a page links to or shows, web pages left out; code is no link."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def test_every_page_is_in_the_sites_list_once() -> None:
    pages = listed(SITE["nav"])
    assert sorted(pages) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in targets(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists() and place.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(place), target


def test_the_site_asks_nobody_for_anything_and_refuses_broken_links() -> None:
    assert SITE["strict"] is True
    assert SITE["theme"]["font"] is False and "offline" in SITE["plugins"]
    assert "/site/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_wheel_is_installed_by_its_path() -> None:
    """By its name alone an index might be asked for it, where anybody can have put something newer under that name."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"pip install '(.*?whl)\[", text)) == {f"wheels/steel_defects-{__version__}-py3-none-any.whl"}
    assert not re.findall(r"pip install[^\n`]* '?steel-defects.*", text)


def test_pictures_are_small_and_shown() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert max(sizes.values()) < 150_000 and sum(sizes.values()) < 500_000
    first = {"overlays.jpg", "report.png", "terminal.svg"}
    assert {f"docs/pictures/{name}" for name in first} <= set(targets(ROOT / "README.md"))
    parts = {f"report-{name}.png" for name in SECTIONS}
    assert {f"pictures/{name}" for name in parts} <= set(targets(ROOT / "docs" / "reading-the-report.md"))
    assert sizes.keys() == first | parts


WRITTEN_BY_HAND = [
    page for page in PAGES if page.name == "README.md" or page.parent in (ROOT, ROOT / "docs", ROOT / "launch")
]


@pytest.mark.parametrize("page", [page for page in WRITTEN_BY_HAND if page.name != "CHANGELOG.md"])
def test_prose_has_lines_of_at_most_120_characters(page: Path) -> None:
    """Tables, code and lines without a space to break at are let be."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|") and " " in line] == []


@pytest.mark.parametrize("package", ["steel", "data_prep", "train"])
def test_docstrings_name_one_parameter_a_line_and_none_that_is_not_there(package: str) -> None:
    """What `make docs` would end with."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                part = re.search(r"\n +Args:\n(.*?)(?:\n\n|\Z)", ast.get_docstring(node, clean=False) or "", re.DOTALL)
                lines = part[1].splitlines() if part else []
                indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
                named = [line.strip().split(":")[0] for line in lines if line[indent : indent + 1].strip()]
                given = {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
                wrong = {name.lstrip("*") for name in named} - given
                assert not wrong, f"{path.relative_to(ROOT)}:{node.lineno}: {wrong}"
