"""Images that cannot be used: what several share is told once, and a line stays a line."""

import pytest

from data_prep.unusable import raise_once, reasons_once, unusable
from steel.validation_errors import Issue, ValidationErrors


def test_reasons_of_several_images_stand_once_and_others_beside_their_images() -> None:
    faults = {"b.png": "16 bits", "a.png": "16 bits", "c.png": "cut at 9", "d.png": "cut at 7"}
    issues = [unusable(name, ValueError(reason)) for name, reason in faults.items()]
    issues.append(Issue("masks of another size than their image (--resize-masks)", "e.png"))
    told = str(ValidationErrors(reasons_once(issues)))
    assert told == (
        "masks of another size than their image (--resize-masks): e.png; "
        "unusable images: c.png (cut at 9), d.png (cut at 7); unusable images (16 bits): a.png, b.png"
    )


def test_many_reasons_are_no_many_kinds() -> None:
    issues = [unusable(f"{number:02d}.png", ValueError(f"fault {number // 2:02d}")) for number in range(40)]
    kinds = {issue.kind for issue in reasons_once(issues)}
    assert kinds == {"unusable images", *(f"unusable images (fault {k:02d})" for k in range(3))}


@pytest.mark.parametrize(
    ("reasons", "is_advised"),
    [
        (["damaged PNG: cut short"], True),
        (["16 bits a pixel; --depth says how they become 8"], False),
        (["a TIFF of 2 pages; save each", "damaged PNG: cut short"], True),
    ],
)
def test_a_way_out_is_told_where_a_reason_names_none(reasons: list[str], is_advised: bool) -> None:
    issues = [unusable(f"{number}.png", ValueError(reason)) for number, reason in enumerate(reasons)]
    with pytest.raises(ValidationErrors) as told:
        raise_once([*issues, Issue("masks of another size than their image (--resize-masks)", "e.png")])
    advice = " (replace unusable images, or remove them: --stray-labels skip then leaves out their labels)"
    assert str(told.value).endswith(advice) == is_advised
    assert ("--stray-labels" in str(told.value)) == is_advised


def test_of_no_issue_nothing_is_raised() -> None:
    raise_once([])
