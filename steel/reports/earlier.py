"""What an earlier call has written, told from files of others: only the former are replaced."""

from collections.abc import Iterable, Set
from pathlib import Path

from steel.errors import InputError, list_some
from steel.plain import parse_json


def has_keys(path: Path, keys: Set[str]) -> bool:
    """Whether a file is a JSON object with these keys, among others."""
    try:
        values = parse_json(path.read_bytes())
    except (OSError, InputError):
        return False
    return isinstance(values, dict) and keys <= values.keys()


def refuse_others(files: Iterable[Path], numbers: Path, keys: Set[str]) -> None:
    """See that nothing of somebody else's is replaced.

    Args:
        files: to be written; `numbers` among them.
        numbers: the JSON file by which what an earlier call has written is known.
        keys: of it.

    Raises:
        InputError: some are there already, and not by an earlier call.
    """
    there = [path.name for path in files if path.exists()]
    if there and not has_keys(numbers, keys):
        raise InputError(
            f"{numbers.parent}: {list_some(there, 3)} there already, and not of an earlier call; choose another --out"
        )
