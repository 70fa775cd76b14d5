"""Sets of which some images are gray and others in colour: a single one in colour decides for all of them."""

from collections.abc import Sequence

from steel.errors import counted

MIXED_ADVICE = "the network takes three channels for all of them; where colours tell nothing, save every image as gray"
"""Of a set that has both kinds."""


def odd_colours(are_gray: Sequence[bool]) -> tuple[int, ...]:
    """The images of the rarer kind, of both as many those in colour; none where all are of one kind."""
    rarer_is_gray = 2 * sum(are_gray) < len(are_gray)
    odd = tuple(row for row, is_gray in enumerate(are_gray) if is_gray == rarer_is_gray)
    return odd if len(odd) < len(are_gray) else ()


def told_mixed(are_gray: Sequence[bool]) -> str:
    """How many images are of which kind, those of `odd_colours` first."""
    num_gray = sum(are_gray)
    num_coloured = len(are_gray) - num_gray
    if num_gray < num_coloured:
        return f"{counted(num_gray, 'gray image')} among {num_coloured:,} in colour"
    return f"{counted(num_coloured, 'colour image')} among {num_gray:,} gray"
