"""Which form a client gets."""

import pytest

from steel.serving.formats import choose_format
from steel.serving.limits import Quota, Refusal

JSON, PNG, JPEG = "application/json", "image/png", "image/jpeg"


@pytest.mark.parametrize(
    ("asked", "accept", "expected"),
    [
        (None, "", JSON),
        (None, "*/*", JSON),
        (None, "image/png", PNG),
        (None, "IMAGE/JPEG", JPEG),
        (None, "image/*", PNG),
        (None, "image/*, image/png;q=0.5", JPEG),
        (None, "text/html, image/jpeg;q=0.2, */*;q=0.1", JPEG),
        (None, "application/json;q=0, */*", PNG),
        ("overlay", "application/json", JPEG),
        ("labelmap", "", PNG),
        ("json", "image/png", JSON),
    ],
)
def test_the_form_that_is_asked_for(asked: str | None, accept: str, expected: str) -> None:
    assert choose_format(asked, accept).media_type == expected


@pytest.mark.parametrize(
    ("asked", "accept", "status"),
    [("tiff", "", 400), ("", "", 400), (None, "text/html", 406), (None, "*/*;q=0", 406), (None, "*/*;q=x", 400)],
)
def test_what_is_not_to_be_had_is_refused(asked: str | None, accept: str, status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        choose_format(asked, accept)
    assert refusal.value.status == status


def test_a_quota_is_given_back_also_after_a_refusal() -> None:
    quota = Quota(10, "ten")
    with quota.hold() as first:
        first.add(6)
        with quota.hold() as second:
            second.add(4)
            with pytest.raises(Refusal, match="too busy: ten"):
                second.add(1)
            assert quota.taken == 10
        assert quota.taken == 6
    assert quota.taken == 0
