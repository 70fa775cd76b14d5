"""Class names and the numbers that stand for them in the user's files."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from steel.errors import InputError

MAX_CLASSES = 16
"""Bits of a 16-bit bitmask; one fewer when some pixels are ignored."""


@dataclass(frozen=True)
class ClassTable:
    """Which number means which class."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    """The class id in a CSV file or the pixel value in a label map, a class."""

    def __post_init__(self) -> None:
        for what, entries in (("name", self.names), ("number", self.values)):
            twice = sorted({str(e) for e in entries if entries.count(e) > 1})
            if twice:
                raise InputError(f"class names: the {what} {', '.join(twice)} stands there twice")
        if not self.names:
            raise InputError("no classes: nothing is marked as defective; give the class names")
        if len(self.names) > MAX_CLASSES:
            raise InputError(f"{len(self.names)} classes, but at most {MAX_CLASSES} are possible")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def numbered_from_one(self) -> bool:
        return self.values == tuple(range(1, len(self) + 1))


def parse_class_names(names: Sequence[str]) -> ClassTable:
    """A table from what the user wrote: `a, b, c` for the numbers 1, 2, 3, or `10=a, 20=b` for any others.

    Raises:
        InputError: empty or repeated names or numbers, a mixture of the two forms, or too many classes.
    """
    found = [re.fullmatch(r"\s*(?:(\d+)=)?\s*(.*?)\s*", name) for name in names]
    parts = [match.groups() for match in found if match is not None]
    if any(not name for _, name in parts):
        raise InputError(f"class names: an empty name in {', '.join(map(repr, names))}")
    numbered = [number for number, _ in parts if number is not None]
    if numbered and len(numbered) < len(parts):
        raise InputError("class names: give all of them a number (`10=scratch`) or none")
    values = [int(number) for number in numbered] or list(range(1, len(parts) + 1))
    return ClassTable(tuple(name for _, name in parts), tuple(values))


def number_classes(values: Collection[int]) -> ClassTable:
    """A table for numbers found in the user's files, none of them named: `class 1`, `class 2`, ...

    Small numbers are taken as counted from 1, so that a class without any example keeps its place; larger ones as they
    are.

    Raises:
        InputError: there are none, or too many.
    """
    most = max(values, default=0)
    numbers = range(1, most + 1) if most <= MAX_CLASSES else sorted(values)
    return ClassTable(tuple(f"class {number}" for number in numbers), tuple(numbers))
