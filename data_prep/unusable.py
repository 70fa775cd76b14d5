"""Images that cannot be used, why, and what to do about them: what several of them share is told once."""

from collections import Counter
from collections.abc import Iterable

from steel.validation_errors import Issue, raise_issues

_KIND = "unusable images"
_WAY_OUT = "replace unusable images, or remove them: --stray-labels skip then leaves out their labels"
_MOST_SHARED = 3
"""Reasons that stand before the images that share them; further ones stand beside each image."""


def unusable(image_id: str, error: Exception) -> Issue:
    """An image at fault, its reason in the issue's kind: see `reasons_once`."""
    return Issue(f"{_KIND} ({error})", image_id)


def raise_once(issues: Iterable[Issue]) -> None:
    """Raise all issues of a set, if there are any, as `reasons_once` has them.

    Raises:
        ValidationErrors: with a way out where an image's reason, which would say it behind a semicolon, names none.
    """
    found = list(issues)
    helpless = any(issue.kind.startswith(_KIND) and "; " not in issue.kind for issue in found)
    raise_issues(reasons_once(found), _WAY_OUT if helpless else "")


def reasons_once(issues: Iterable[Issue]) -> list[Issue]:
    """All issues of a set, sorted: of unusable images the commonest reasons, of two images or more, as kinds of their
    own; every other image has its reason beside its name."""
    issues = sorted(issues)
    times = Counter(issue.kind for issue in issues if issue.kind.startswith(_KIND))
    shared = {kind for kind, number in times.most_common(_MOST_SHARED) if number > 1}
    return sorted(
        Issue(_KIND, f"{issue.name} {issue.kind.removeprefix(_KIND).lstrip()}")
        if issue.kind in times and issue.kind not in shared
        else issue
        for issue in issues
    )
