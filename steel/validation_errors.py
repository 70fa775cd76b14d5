"""Mistakes in the user's data, gathered first and then told all at once."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from steel.errors import InputError, list_some


class Problem(NamedTuple):
    """One mistake: what kind, and where."""

    kind: str
    """In the plural, for a heading: `ids without an image`."""
    name: str
    """The image, row or file at fault, with what is wrong about it."""


class ProblemsError(InputError):
    """Several mistakes in one line: each kind with its count and the first few names.

    Attributes:
        problems: All of them, so that a caller can gather more before it gives up.
    """

    def __init__(self, problems: Iterable[Problem], hint: str = "") -> None:
        self.problems = tuple(problems)
        self.hint = hint
        super().__init__(_one_line(self.problems) + (f" ({hint})" if hint else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems, self.hint)  # exceptions cross process boundaries by their arguments


def raise_problems(problems: Iterable[Problem], hint: str = "") -> None:
    """Raise one `ProblemsError` for all `problems`, if there are any.

    Args:
        problems: In the order in which they shall be named.
        hint: What to do about them, in a few words.
    """
    found = tuple(problems)
    if found:
        raise ProblemsError(found, hint)


def _one_line(problems: tuple[Problem, ...]) -> str:
    names: dict[str, list[str]] = {}
    for problem in problems:
        names.setdefault(problem.kind, []).append(problem.name)
    return "; ".join(f"{len(those)} {kind}: {list_some(those)}" for kind, those in names.items())
