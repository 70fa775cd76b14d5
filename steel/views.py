"""The flipped views of an image that test-time augmentation averages, by name. Without torch."""

from collections.abc import Sequence

from steel.errors import InputError

VIEWS: dict[str, tuple[int, ...]] = {"hflip": (-1,), "vflip": (-2,), "hvflip": (-2, -1)}
"""The axes that each view flips; the plain view is always there beside them."""


def parse_tta(text: str) -> tuple[str, ...]:
    """`hflip,vflip` -> ("hflip", "vflip"); `none` or nothing -> ().

    Raises:
        InputError: an unknown view, or one named twice.
    """
    views = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if views == ("none",) else check_tta(views)


def check_tta(views: Sequence[str]) -> tuple[str, ...]:
    """`views` as a tuple.

    Raises:
        InputError: an unknown view, or one named twice.
    """
    if not set(views) <= set(VIEWS) or len(set(views)) < len(views):
        known = ", ".join(VIEWS)
        raise InputError(f"tta: {','.join(views)} is neither none nor some of {known}, each at most once")
    return tuple(views)


def flips_of(views: Sequence[str]) -> list[tuple[int, ...]]:
    """The axes to flip for the plain view, which is none, and for each of `views`."""
    return [(), *(VIEWS[view] for view in views)]
