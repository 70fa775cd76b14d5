"""How places are written: a path, or the URL of a store. No file is opened here."""

import os
from collections.abc import Iterable
from pathlib import Path

from steel.errors import InputError


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether `url` names another store than the local file system, whose schemes are told in either case."""
    scheme, separator, _ = os.fspath(url).partition("://")
    return bool(separator) and scheme.lower() not in ("file", "local")


def local_path(url: str | os.PathLike[str]) -> Path:
    """The path of a local location, with or without `file://`."""
    text = os.fspath(url)
    assert not is_remote(text), text
    return Path(text.split("://", 1)[1] if "://" in text else text)


def plain_scheme(url: str) -> str:
    """A URL with its scheme in lower case, as stores are known by."""
    scheme, separator, place = url.partition("://")
    return scheme.lower() + separator + place


def full_path(url: str) -> str:
    """The one way to write a path or URL, links resolved, with a slash at its end. Links in a circle stay as they are:
    whoever opens them is told."""
    return (plain_scheme(url) if is_remote(url) else os.path.realpath(local_path(url))).rstrip("/") + "/"


def check_apart(inputs: Iterable[str | None], outputs: Iterable[str | None]) -> None:
    """Refuse outputs that would replace an input or each other, however their paths are written; None is no file.

    Raises:
        InputError: names the first such output.
    """
    taken = {full_path(path): "read" for path in inputs if path is not None}
    for path in filter(None, outputs):
        if full_path(path) in taken:
            raise InputError(f"{path}: {taken[full_path(path)]} by the same command; give this output another name")
        taken[full_path(path)] = "written"


def join(url: str | os.PathLike[str], *names: str) -> str:
    """`url/name/...` for paths and URLs alike; "" is the current folder, as in `pathlib`."""
    base = os.fspath(url)
    return "/".join([base.rstrip("/"), *names] if base else names)
