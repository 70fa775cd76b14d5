"""A row of a table of speeds: ours and what it is held against."""

from dataclasses import dataclass, field
from typing import Any

Where = dict[str, Any]
"""The option that names a folder."""


@dataclass(frozen=True)
class Side:
    """One way of doing the work of a row."""

    label: str
    where: str
    """The name of its process."""
    task: str
    options: dict[str, Any] = field(default_factory=dict)
    target: float | None = None
    """The least ratio to our side; with `at_most` of the row, the largest."""
    remark: str = ""
    most_ms: float | None = None
    """The most milliseconds an item may take, where that is the target instead."""
    least_rate: float | None = None
    """The fewest items a second, where that is the target instead."""


@dataclass(frozen=True)
class Row:
    """A measurement: the first side is ours, the others are what it is compared with."""

    name: str
    title: str
    unit: str
    sides: tuple[Side, ...]
    at_most: bool = False
    """The ratio is our time over theirs, and the target an upper bound."""
    times: int = 1
    """As many repeats as usual so many times: where single ones differ much, or where what is asked is close to 1."""
