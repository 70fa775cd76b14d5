"""Labels that belong nowhere: of images that are not there, of unknown classes, shapes without any pixel.

They are mistakes until the user says otherwise (`--stray-labels skip`); then they are left out, and counted. Shapes
with an outline that turn out to cover no pixel when they are drawn, long after, are not counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from steel.errors import list_some
from steel.labels.options import LabelOptions
from steel.validation_errors import Issue, raise_issues

NO_IMAGE = "labels without an image"
UNKNOWN_CLASS = "labels of an unknown class"
NO_AREA = "shapes that cover no pixel"
_STRAY = (NO_IMAGE, UNKNOWN_CLASS, NO_AREA)
OPTION = "--stray-labels skip leaves them out"


def settle(issues: Sequence[Issue], where: str, options: LabelOptions, known: Iterable[str]) -> tuple[str, ...]:
    """Raise what is wrong with labels, or say what is left out of them.

    Args:
        issues: All of one reading.
        where: Names the file or folder.
        options: Whether stray labels are left out.
        known: The classes, for a message about unknown ones.

    Returns:
        A line for each kind of stray label that is left out.

    Raises:
        ValidationErrors: all `issues` at once, but for what is left out.
    """
    stray = [issue for issue in issues if issue.kind in _STRAY]
    others = [issue for issue in issues if issue.kind not in _STRAY]
    hint = where
    if stray and options.stray_labels == "error":
        others = list(issues)
        if any(issue.kind == UNKNOWN_CLASS for issue in stray):
            hint += f"; known classes: {list_some(list(known), 16)}; --class-names says which there are"
        hint += f"; {OPTION}"
    raise_issues(others, hint)
    return tuple(f"left out: {kind} ({count:,})" for kind, count in Counter(issue.kind for issue in stray).items())
