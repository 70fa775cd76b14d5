"""Sets of gray images and such in colour: which kind is told, and how."""

import pytest

from steel.images.mixed import odd_colours, told_mixed


@pytest.mark.parametrize(
    ("are_gray", "odd", "told"),
    [
        ([True, False, True], (1,), "1 colour image among 2 gray"),
        ([False, True, False, False], (1,), "1 gray image among 3 in colour"),
        ([True, False, False, True], (1, 2), "2 colour images among 2 gray"),
    ],
)
def test_the_rarer_kind_is_named(are_gray: list[bool], odd: tuple[int, ...], told: str) -> None:
    assert odd_colours(are_gray) == odd
    assert told_mixed(are_gray) == told


@pytest.mark.parametrize("are_gray", [[], [True, True], [False, False, False], [False]])
def test_of_one_kind_there_is_nothing_to_tell(are_gray: list[bool]) -> None:
    assert odd_colours(are_gray) == ()
