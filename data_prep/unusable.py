"""Images that cannot be used, and why: what several of them share is told once."""

from collections import Counter
from collections.abc import Iterable

from steel.validation_errors import Issue

_KIND = "unusable images"
_MOST_SHARED = 3
"""Reasons that stand before the images that share them; further ones stand beside each image."""


def unusable(image_id: str, error: Exception) -> Issue:
    """An image at fault, its reason in the issue's kind: see `reasons_once`."""
    return Issue(f"{_KIND} ({error})", image_id)


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
