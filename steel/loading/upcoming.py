"""Which items come after each of a stream, so that who works on one can have the next ones brought nearer."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def with_upcoming(items: Iterable[Item], distance: int) -> Iterator[tuple[Item, tuple[Item, ...]]]:
    """Each item with those that have come into sight with it: the one `distance` ahead; with the first all up to it.

    Every item but the first is so named exactly once, `distance` items before it comes, or with the first. Items are
    taken so far ahead.

    Args:
        items: in their order.
        distance: at least 1.
    """
    rest = iter(items)
    ahead = deque(islice(rest, distance + 1))
    seen = tuple(ahead)[1:]
    while ahead:
        yield ahead.popleft(), seen
        seen = tuple(islice(rest, 1))
        ahead.extend(seen)
