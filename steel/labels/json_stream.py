"""Large JSON files, an element at a time: an object whose values are long lists, as COCO's are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from steel.errors import InputError

_CHUNK = 1 << 20
"""Characters read at first for an element."""
_LARGEST = 1 << 28
"""Characters that one element may have: a damaged file must not be read into memory whole."""


def stream_lists(path: Path, on_item: Mapping[str, Callable[[Any], None]]) -> set[str]:
    """Read a JSON object, and hand over the elements of some of its lists as they come.

    Args:
        path: Of a local file, in UTF-8.
        on_item: Key -> what is called with each element of the list under it. Other values are read and dropped.

    Returns:
        The keys that were there.

    Raises:
        InputError: not JSON, no object, or something else than a list under one of the keys; says what, not where.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return _Scanner(file).read_object(on_item)
    except UnicodeDecodeError as error:
        raise InputError("not JSON: not a text file in UTF-8") from error
    except RecursionError as error:
        raise InputError("not JSON: nested too deeply") from error


class _Scanner:
    """A window on a text that moves forward."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._passed = 0
        self._ended = False
        self._decoder = json.JSONDecoder(parse_constant=self._refuse)

    def read_object(self, on_item: Mapping[str, Callable[[Any], None]]) -> set[str]:
        keys: set[str] = set()
        self._expect("{")
        is_closed = self._peek() == "}"
        if is_closed:
            self._at += 1
        while not is_closed:
            key = self._value()
            if not isinstance(key, str) or key in keys:
                self._refuse(f"{str(key)[:40]!r} where a new key should be")
            keys.add(key)
            self._expect(":")
            if key not in on_item:
                self._value()
            elif self._peek() == "[":
                self._read_list(on_item[key])
            else:
                self._refuse(f"`{key}` is no list")
            is_closed = self._expect(",}") == "}"
        if self._peek():
            self._refuse("something after its end")
        return keys

    def _read_list(self, on_item: Callable[[Any], None]) -> None:
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            on_item(self._value())
            if self._expect(",]") == "]":
                return

    def _value(self) -> Any:
        """The JSON value that comes next."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if self._ended or not is_cut:
                    self._refuse(error.msg, error.pos)
                self._fill()
                continue
            except InputError:
                raise
            except ValueError as error:  # a number of thousands of digits
                raise InputError(f"not JSON: {error}") from error
            if end < len(self._text) or self._ended:  # else a number might go on
                self._at = end
                return value
            self._fill()

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            self._refuse(f"{found!r} where {' or '.join(characters)} should be" if found else "cut short")
        self._at += 1
        return found

    def _peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\n\r":
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._fill()

    def _fill(self) -> None:
        """Drop what was read, and read as much again as is left, or more."""
        rest = self._text[self._at :]
        if len(rest) > _LARGEST:
            self._refuse(f"an element of more than {_LARGEST:,} characters")
        more = self._file.read(max(_CHUNK, len(rest)))
        self._passed += self._at
        self._text, self._at, self._ended = rest + more, 0, not more

    def _refuse(self, what: str, at: int | None = None) -> Any:
        raise InputError(f"not JSON: {what}, at character {self._passed + (self._at if at is None else at)}")
