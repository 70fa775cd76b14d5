"""Puts the site of `make docs` together, as a hook of mkdocs: the repository's documents at their places, so that the
links between them hold, and a page of each package's docstrings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import steel

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
PACKAGES = ("steel", *(f"steel.{path.parent.name}" for path in sorted((ROOT / "steel").glob("*/__init__.py"))))


def documents() -> list[str]:
    """Every page that is written by hand, relative to the repository."""
    folders = ("docs", "launch", "bench")
    found = [path.relative_to(ROOT).as_posix() for folder in folders for path in sorted((ROOT / folder).glob("*.md"))]
    return ["README.md", *found, "CONTRIBUTING.md", "CHANGELOG.md"]


def linked_files(document: str) -> Iterator[str]:
    """What a document links to or shows besides pages."""
    place = ROOT / document
    for target in LINK.findall(place.read_text(encoding="utf-8")):
        path = (place.parent / target).resolve()
        if path.is_file() and path.suffix != ".md":
            yield path.relative_to(ROOT).as_posix()


def reference(package: str) -> str:
    """A page of a package: what is public in each of its modules."""
    modules = sorted((ROOT / package.replace(".", "/")).glob("*.py"))
    names = [f"{package}.{path.stem}" for path in modules if not path.stem.startswith("_")]
    first = public_names() if package == "steel" else ""
    return f"# {package}\n\n{first}" + "\n\n".join(f"::: {name}" for name in names) + "\n"


def public_names() -> str:
    """What `from steel import` gives, each with a link to where it is described."""
    homes = {name: f"{steel._HOMES[name]}.{name}" for name in steel.__all__ if name in steel._HOMES}
    lines = [f"- [{name}][{home}]" for name, home in homes.items()]
    return "`from steel import ...` gives what most programs need:\n\n" + "\n".join(lines) + "\n\n"


def on_files(files: Files, *, config: Any) -> Files:
    """Take the place of what mkdocs found under `docs`."""
    for file in [*files]:
        if file.src_uri.endswith((".md", ".py", ".txt")) or file.src_uri.startswith("pictures/"):
            files.remove(file)
    pages = documents()
    for path in dict.fromkeys([*pages, *(linked for page in pages for linked in linked_files(page))]):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=reference(package)))
    return files


def on_config(config: Any) -> Any:
    """List the reference's pages below those that mkdocs.yml names."""
    config["nav"].append({"Reference": [{package: f"api/{package}.md"} for package in PACKAGES]})
    return config
