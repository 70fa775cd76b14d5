"""Seeded edits of files, and the outcomes that a reader may have: as before, one line that names the file, or another
whole value where the edit made one. Anything else fails: another exception, a hang, gigabytes, a file elsewhere.

A format of the system is a `Format`: how to make its file, what reads it, and which edits it shall stand. `attack`
edits it once a seed; an error says which seed, so that one case can be repeated.
"""

import contextlib
import copy
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from steel.errors import InputError

T = TypeVar("T")
Random = np.random.Generator
BytesEdit = Callable[[bytes, Random], bytes]
Outcome = Literal["as before", "refused", "another"]

_MORE_MEMORY = 1 << 30
"""Bytes that a reader of a small file may reserve."""
_SECONDS = 20.0
"""That it may take, on a busy machine."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 2**15, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63, -(2**63) - 1, 10**30,
    0.0, -0.5, 0.25, 1e-300, 1e300, -1e308, math.nan, math.inf, -math.inf,
    "", "a", "1", "any", "nan", "../outside.tar", "/etc/hostname", "C:\\outside.tar", "a/../../outside.tar", ".hidden",
    "two\nlines", "nul\0", "\x1b[31m", "\ud800", "Riß", "x" * 5000, "0" * 64,
    [], [None], [1, 2], ["a", "a"], [[]], {}, {"a": 1}, {"__key__": []},
)  # fmt: skip
"""What an edit puts in place of a value."""


# --- edits ---


def edit_bytes(data: bytes, random: Random) -> bytes:
    """Flip, cut, repeat, blank or insert somewhere."""
    if not data:
        return b"\0"
    at = int(random.integers(len(data)))
    length = int(random.integers(1, 1 + min(64, len(data) - at)))
    changed = bytearray(data)
    match int(random.integers(6)):
        case 0 | 1:
            changed[at] ^= 1 << int(random.integers(8))
        case 2:
            del changed[at:]
        case 3:
            del changed[at : at + length]
        case 4:
            changed[at : at + length] = bytes(length) if random.integers(2) else random.bytes(length)
        case _:
            changed[at:at] = changed[at : at + length]
    return bytes(changed)


def edit_value(value: Any, random: Random) -> Any:
    """Change one place of a JSON value: another value or type, an entry more or fewer, a list of another length."""
    parent, key = _one_of(list(_places(value)), random)
    root = [value]
    if parent is None:
        parent, key = root, 0
    old = parent[key]
    match int(random.integers(7)):
        case 0:
            del parent[key]
        case 1 if isinstance(old, dict):
            old[_one_of(["extra", "", "version", "sha256"], random)] = 1
        case 2 if isinstance(old, list):
            old.append(old[0] if old else None)
        case 3 if isinstance(old, list) and old:
            old.pop()
        case 4 if isinstance(old, int | float) and not isinstance(old, bool):
            parent[key] = _one_of([-old, old + 1, old - 1, old * 1000, old / 2, str(old)], random)
        case 5 if isinstance(old, str):
            parent[key] = _one_of([old + "x", old[:-1], old.upper(), "../" + old, old * 2], random)
        case _:
            parent[key] = copy.deepcopy(_one_of(VALUES, random))
    return root[0] if root else None


def _one_of(options: Sequence[T], random: Random) -> T:
    return options[int(random.integers(len(options)))]


def _places(value: Any, parent: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    yield parent, key
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _places(entry, value, name)


def edit_json(data: bytes, random: Random) -> bytes:
    """Change one value of a JSON text."""
    return json.dumps(edit_value(json.loads(data), random)).encode("utf-8", "surrogatepass")


def edit_json_line(data: bytes, random: Random) -> bytes:
    """Change one value in one line of a file of JSON lines."""
    lines = data.splitlines(keepends=True)
    at = int(random.integers(len(lines)))
    lines[at] = edit_json(lines[at], random) + b"\n"
    return b"".join(lines)


def edit_csv(data: bytes, random: Random) -> bytes:
    """Change one cell, line or delimiter of a CSV text."""
    lines = data.decode().split("\n")
    at = int(random.integers(len(lines)))
    cells = lines[at].split(",")
    cell = int(random.integers(len(cells)))
    match int(random.integers(7)):
        case 0:
            lines[at] = _one_of(["(1 row)", "", " ", "-----+----", ",,", '"', "\t", "\r"], random)
        case 1:
            lines.insert(at, lines[int(random.integers(len(lines)))])
        case 2:
            del lines[at]
        case 3:
            lines[at] = ",".join(cells[:cell] + cells[cell + 1 :])
        case 4:
            lines[at] = lines[at].replace(",", _one_of([";", "\t", ",,", "_", '","'], random))
        case _:
            text = [*map(str, VALUES), "1.0", "1.5", "1e3", "0", "-3", "1 0", "1 -2", "9 99999", "1 2 3", '"open']
            cells[cell] = _one_of(text, random)
            lines[at] = ",".join(cells)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


# --- outcomes ---


def outcome(read: Callable[[], Any], expected: Any, folder: Path, names: str) -> Outcome:
    """What reading comes to.

    Args:
        read: the reader, which uses what it has read.
        expected: what it gives when nothing was edited.
        folder: where the edited file lies; nothing beside it may be opened.
        names: what the line of an error must name.

    Raises:
        AssertionError: an outcome that is none of the three.
    """
    with _guarded(folder):
        try:
            found = read()
        except InputError as error:
            line = str(error)
            assert len(line.splitlines()) == 1 and line.encode(), f"not one line: {line!r}"
            assert names in line, f"does not name {names}: {line}"
            return "refused"
    return "as before" if _same(found, expected) else "another"


def _same(found: Any, expected: Any) -> bool:
    return repr(found) == repr(expected)


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Bounds for the block: time, memory, and files of `folder` alone among those beside it."""
    opened: list[str] = []
    _listeners.append(opened)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (reserved + _MORE_MEMORY, hard))
    begun = time.process_time()  # not the clock's: others work on this machine
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        _listeners.remove(opened)
    assert time.process_time() - begun < _SECONDS, "took too long"
    beside = [path for path in opened if _lies_beside(path, folder)]
    assert not beside, f"opened {beside[0]}"


def _lies_beside(path: str, folder: Path) -> bool:
    real = Path(os.path.realpath(path))
    inside = folder.resolve()
    return real == Path("/etc/hostname") or (inside.parent in real.parents and inside not in (real, *real.parents))


_listeners: list[list[str]] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listeners and isinstance(arguments[0], str):
        _listeners[-1].append(arguments[0])


sys.addaudithook(_listen)


# --- formats ---


@dataclass(frozen=True)
class Format:
    """One file of the system."""

    make: Callable[[Path], str]
    """Fill an empty folder; returns the name of the file to edit."""
    read: Callable[[Path], Any]
    """Read the folder and do with it what the system does."""
    edits: tuple[BytesEdit, ...]
    mend: Callable[[Path], None] | None = None
    """Repair the hashes over the edited file; then an edit may go unnoticed."""
    is_hashed: bool = False
    """Without mending, no edit goes unnoticed."""
    names: str = ""
    """What the line of an error must name; the edited file when empty."""


@contextlib.contextmanager
def restored(folder: Path) -> Iterator[None]:
    """Put all files back as they were."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in before]:
        path.unlink()
    for path, data in before.items():
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def attack(form: Format, root: Path, seeds: range) -> None:
    """Edit, read and judge, once a seed."""
    folder = root / "folder"
    folder.mkdir()
    (root / "outside.tar").write_bytes(bytes(2048))
    path = folder / form.make(folder)
    expected = form.read(folder)
    whole = path.read_bytes()
    for seed in seeds:
        random = np.random.default_rng(seed)
        edit = form.edits[seed % len(form.edits)]
        mends = form.mend is not None and bool(random.integers(3))
        with restored(folder):
            path.write_bytes(edit(whole, random))
            if mends:
                assert form.mend is not None
                form.mend(folder)
            try:
                found = outcome(lambda: form.read(folder), expected, folder, form.names or path.name)
                assert found != "another" or mends or not form.is_hashed, "an edit was not noticed"
            except Exception as error:
                raise AssertionError(f"seed {seed}, {getattr(edit, '__name__', edit)}, mended: {mends}") from error


JSON_EDITS = (edit_json, edit_json, edit_json, edit_bytes)
TABLE_EDITS = (edit_csv, edit_csv, edit_bytes)
