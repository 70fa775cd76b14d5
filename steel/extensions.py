"""Extensions: modules of a user's own that add to the tables of loss terms, heads, metrics, transforms and the like.

The environment variable `STEEL_EXTENSIONS` names them, as files (`plant.py`) or modules (`company.plant`), several with
a colon between. Every program imports them before it reads its options, so that what they register is an option, a
choice or a figure like any other. What was trained with an extension names it and the digest of its file.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from steel.errors import InputError, SharedError

T = TypeVar("T")
VARIABLE = "STEEL_EXTENSIONS"
_loaded: dict[str, tuple[str, str]] = {}
"""What the variable calls it -> its module's name and digest."""


def register(table: dict[str, T], name: str, entry: T) -> None:
    """Add an entry to a table of steel's.

    Raises:
        InputError: the table has that name already, or it cannot be part of an option.
    """
    if not name.isidentifier() or not name.islower():
        raise InputError(f"{name!r} is no name for a table: give lower-case letters, digits and underscores")
    if name in table:
        raise InputError(f"{name!r} is there already, beside {', '.join(other for other in table if other != name)}")
    table[name] = entry


def load_extensions() -> dict[str, str]:
    """Import what `STEEL_EXTENSIONS` names, each once.

    Returns:
        The modules' names and the digests of their files.

    Raises:
        InputError: one is not to be found, fails, or registers a name that is taken; a `SharedError`, as every rank
            finds it.
    """
    wanted = [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
    for entry in wanted:
        if entry not in _loaded:
            _loaded[entry] = _load(entry)
    return dict(_loaded[entry] for entry in wanted)


def _load(entry: str) -> tuple[str, str]:
    is_file = entry.endswith(".py")
    if is_file and not Path(entry).is_file():
        raise SharedError(f"{VARIABLE}: {entry}: no such file")
    try:
        module = _import_file(Path(entry)) if is_file else importlib.import_module(entry)
    except Exception as error:
        reason = " ".join(str(error).split())
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise SharedError(
            f"{VARIABLE}: {entry}: cannot be imported ({kind}{reason}); mend it or leave it out"
        ) from error
    return module.__name__, hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()


def _import_file(path: Path) -> ModuleType:
    """A file as the module of its name."""
    name = path.stem
    other = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
    if other is not None and Path(other.origin or "").resolve() != path.resolve():
        raise InputError(f"there is another module called {name}; rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def extensions_of(provenance: Any) -> dict[str, str]:
    """The extensions that a checkpoint was made with, by what it says of its making: names and digests.

    An ensemble has those of all its members. `provenance` may be whatever a file held.
    """
    if not isinstance(provenance, Mapping):
        return {}
    config, members = provenance.get("config"), provenance.get("members")
    own = config.get("extensions") if isinstance(config, Mapping) else None
    found = {str(name): str(digest) for name, digest in own.items()} if isinstance(own, Mapping) else {}
    for member in members if isinstance(members, list) else ():
        found |= extensions_of(member.get("provenance") if isinstance(member, Mapping) else None)
    return found


def say_missing(provenance: Any) -> str:
    """What must be done before a checkpoint can be used, for a message; empty where nothing is missing."""
    loaded = {name for name, _ in _loaded.values()}
    missing = ", ".join(name for name in extensions_of(provenance) if name not in loaded)
    return f"made with the extension {missing}, which is missing: name its file in {VARIABLE}" if missing else ""


def require_extensions(provenance: Any, where: str) -> None:
    """See that what a checkpoint was made with is loaded.

    Raises:
        InputError: an extension is not; begins with `where`.
    """
    missing = say_missing(provenance)
    if missing:
        raise SharedError(f"{where}: {missing}")
