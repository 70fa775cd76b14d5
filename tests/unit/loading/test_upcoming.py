"""Items and what comes after them."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from steel.loading.upcoming import with_upcoming


def test_the_first_brings_all_up_to_the_distance_and_each_later_one_the_next() -> None:
    assert list(with_upcoming("abcde", 2)) == [("a", ("b", "c")), ("b", ("d",)), ("c", ("e",)), ("d", ()), ("e", ())]


@given(num=st.integers(0, 40), distance=st.integers(1, 50))
def test_each_but_the_first_is_announced_once_and_in_time(num: int, distance: int) -> None:
    seen: list[int] = []
    for item, coming in with_upcoming(range(num), distance):
        assert item == 0 or item in seen
        seen += coming
        assert seen == list(range(1, min(num, item + distance + 1)))


def test_no_more_is_taken_than_the_distance() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    next(with_upcoming(endless(), 3))
    assert taken == [0, 1, 2, 3]
