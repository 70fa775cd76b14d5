"""Class names and the numbers that stand for them in the user's files."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from steel.errors import InputError, printable

MAX_CLASSES = 16
"""Bits of a 16-bit bitmask; one fewer when some pixels are ignored."""
ANY = "any"
"""What metrics and histories call the label for a defect of any class; no class may have this name."""


@dataclass(frozen=True)
class ClassTable:
    """Which number means which class."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    """The class id in a file, the pixel value in a label map, or the colour 0xRRGGBB in coloured masks, a class."""
    given: Literal["order", "value", "colour"] = "value"
    """What the user has said of the classes: their order alone, their values, or their colours."""

    def __post_init__(self) -> None:
        twice = _repeated(list(map(str, self.values)))
        fault = name_fault(self.names) or (f"class names: the number {twice} stands there twice" if twice else None)
        if fault is not None:
            raise InputError(fault)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def numbered_from_one(self) -> bool:
        """Whether the values are 1 to C, in this order."""
        return self.values == tuple(range(1, len(self) + 1))


def name_fault(names: Sequence[str]) -> str | None:
    """What is wrong with the names of a data set's classes; None when nothing is."""
    if not names:
        return "no classes: nothing is marked as defective; name the classes with --class-names"
    if len(names) > MAX_CLASSES:
        return f"{len(names)} classes, but at most {MAX_CLASSES} are possible"
    if ANY in names:
        return f"class names: `{ANY}` is what metrics call a defect of any class; choose another name"
    twice = _repeated(names)
    if twice:
        return f"class names: the name {twice} stands there twice"
    odd = [name for name in names if name != name.strip() or printable(name) != name or not name]
    return f"class names: {odd[0]!r} is empty, or has blanks around it or control characters" if odd else None


def beside_classes(name: str, class_names: Collection[str]) -> str:
    """What is called so where it stands beside the classes, as `clean` is: told apart from a class of that name."""
    return f"{name} (no class)" if name in class_names else name


def _repeated(entries: Sequence[str]) -> str:
    return ", ".join(sorted({entry for entry in entries if entries.count(entry) > 1}))


def parse_class_names(names: Sequence[str]) -> ClassTable:
    """A table from what the user wrote: `a, b, c` for the numbers 1, 2, 3, `10=a, 20=b` for any others, or
    `#ff0000=a, #00ff00=b` for colours.

    Raises:
        InputError: empty or repeated names or numbers, a mixture of the forms, or too many classes.
    """
    found = [re.fullmatch(r"\s*(?:([0-9]{1,9}|#[0-9a-fA-F]{6})=)?\s*(.*?)\s*", name, re.DOTALL) for name in names]
    parts = [match.groups() for match in found if match is not None]
    if any(not name for _, name in parts):
        raise InputError(f"class names: an empty name in {', '.join(map(repr, names))}")
    numbered = [number for number, _ in parts if number is not None]
    if numbered and len(numbered) < len(parts):
        raise InputError("class names: give all of them a number (`10=scratch`) or none")
    colours = [number for number in numbered if number.startswith("#")]
    if colours and len(colours) < len(numbered):
        raise InputError("class names: give all of them a colour (`#ff0000=scratch`) or none")
    values = [parse_value(number) for number in numbered] or list(range(1, len(parts) + 1))
    given: Literal["order", "value", "colour"] = "colour" if colours else "value" if numbered else "order"
    return ClassTable(tuple(name for _, name in parts), tuple(values), given)


def parse_value(text: str) -> int:
    """A pixel value as the user writes it: a whole number, or a colour `#rrggbb`.

    Raises:
        ValueError: neither.
    """
    return int(text[1:], 16) if re.fullmatch("#[0-9a-fA-F]{6}", text) else int(text)


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
