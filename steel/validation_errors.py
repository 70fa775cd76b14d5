"""Mistakes in the user's data, gathered first and then told all at once."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from steel.errors import InputError, list_some


class Issue(NamedTuple):
    """One mistake: what kind, and where."""

    kind: str
    """In the plural, for a heading, which is right for one, too: `ids without an image`."""
    name: str
    """The image, row or file at fault, with what is wrong about it."""


class ValidationErrors(InputError):
    """Several mistakes in one line: each kind with the first few names, and how many more there are.

    Attributes:
        issues: All of them, so that a caller can gather more before it gives up.
    """

    def __init__(self, issues: Iterable[Issue], hint: str = "") -> None:
        self.issues = tuple(issues)
        self.hint = hint
        super().__init__(_one_line(self.issues) + (f" ({hint})" if hint else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.issues, self.hint)  # exceptions cross process boundaries by their arguments


def raise_issues(issues: Iterable[Issue], hint: str = "") -> None:
    """Raise one `ValidationErrors` for all `issues`, if there are any.

    Args:
        issues: In the order in which they shall be named.
        hint: What to do about them, in a few words.
    """
    found = tuple(issues)
    if found:
        raise ValidationErrors(found, hint)


def raise_all(errors: Sequence[ValidationErrors]) -> None:
    """Raise one `ValidationErrors` for the issues of all `errors`, if there are any; with their hint if it is one, and
    from what the system refused first, which tells wrong input from missing rights."""
    hints = {error.hint for error in errors}
    causes = (error.__cause__ for error in errors)
    if errors:
        issues = chain.from_iterable(error.issues for error in errors)
        refused = next((cause for cause in causes if isinstance(cause, OSError)), None)
        raise ValidationErrors(issues, hints.pop() if len(hints) == 1 else "") from refused


def _one_line(issues: tuple[Issue, ...]) -> str:
    names: dict[str, list[str]] = {}
    for issue in issues:
        names.setdefault(issue.kind, []).append(issue.name)
    return "; ".join(f"{kind}: {list_some(those)}" for kind, those in names.items())
