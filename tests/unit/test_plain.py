"""Plain JSON values as dataclasses: what comes back is what was written, and nothing else is believed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from steel.errors import InputError
from steel.plain import INLINE, from_dict, from_plain, parse_json, to_dict


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.5

    def __post_init__(self) -> None:
        if self.x == 13:
            raise InputError("x: 13 brings bad luck")


@dataclass(frozen=True)
class Drawing:
    name: str
    points: tuple[Point, ...]
    size: tuple[int, int] | None
    kind: Literal["a", 1]
    shown: bool
    tags: list[str]
    notes: dict[str, Any]
    by_name: dict[str, Point]


@dataclass(frozen=True)
class Recipe:
    """Its weights stand among its other fields."""

    weights: Mapping[str, float] = field(default_factory=dict, metadata=INLINE)
    power: int = 2


def test_an_inline_mapping_stands_among_the_other_fields() -> None:
    plain = {"dice": 0.5, "bce": 1.0, "power": 3}
    assert to_dict(Recipe({"dice": 0.5, "bce": 1.0}, 3)) == plain
    assert from_dict(Recipe, plain) == Recipe({"dice": 0.5, "bce": 1.0}, 3)
    with pytest.raises(InputError, match=r"^weights.dice must be a number, not true"):
        from_dict(Recipe, {"dice": True, "power": 3})


DRAWING = Drawing("Riß", (Point(1), Point(2, 3.0)), (4, 5), "a", True, ["t"], {"any": [None]}, {"p": Point(0)})
VALUES = {
    "name": "Riß",
    "points": [{"x": 1, "y": 0.5}, {"x": 2, "y": 3.0}],
    "size": [4, 5],
    "kind": "a",
    "shown": True,
    "tags": ["t"],
    "notes": {"any": [None]},
    "by_name": {"p": {"x": 0, "y": 0.5}},
}


def test_dataclasses_come_back_through_json() -> None:
    assert from_dict(Drawing, json.loads(json.dumps(VALUES))) == DRAWING
    assert to_dict(DRAWING) == VALUES
    assert from_dict(Drawing, VALUES | {"size": None}).size is None
    assert from_dict(Drawing, VALUES | {"kind": 1}).kind == 1


def test_whole_numbers_are_numbers_and_nothing_else_is_turned_into_another_type() -> None:
    point = from_dict(Point, {"x": 1, "y": 2})
    assert (point, type(point.y)) == (Point(1, 2.0), float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "name must be a text, not 1"),
        ({"name": "\ud800"}, "name must be a text"),
        ({"points": {}}, r"points must be a list, not \{\}"),
        ({"points": [{"x": 1.0, "y": 0}]}, r"points.0.x must be a whole number, not 1\.0"),
        ({"points": [{"x": True, "y": 0}]}, "points.0.x must be a whole number, not true"),
        ({"points": [{"x": 1, "y": "1"}]}, 'points.0.y must be a number, not "1"'),
        ({"points": [{"x": 1, "y": 10**400}]}, "points.0.y must be a number"),
        ({"points": [{"x": 1, "y": float("inf")}]}, "points.0.y must be a number"),
        ({"points": [{"x": 1}]}, "points.0: the field y is missing"),
        ({"points": [{"x": 13, "y": 0}]}, "x: 13 brings bad luck"),
        ({"points": [None]}, "points.0 must be an object, not null"),
        ({"size": [1]}, "size must be a list of 2, not of 1"),
        ({"size": [1, 2, 3]}, "size must be a list of 2, not of 3"),
        ({"kind": "b"}, 'kind must be one of a, 1, not "b"'),
        ({"kind": True}, "kind must be one of a, 1, not true"),
        ({"shown": 1}, "shown must be true or false, not 1"),
        ({"tags": ["a", None]}, "tags.1 must be a text, not null"),
        ({"notes": []}, r"notes must be an object, not \[\]"),
        ({"by_name": {"q": 3}}, "by_name.q must be an object, not 3"),
        ({"colour": 1}, "unknown field colour"),
    ],
)
def test_another_type_is_named_by_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        from_dict(Drawing, VALUES | changes)


@pytest.mark.parametrize("values", [None, [], "x", 3])
def test_what_is_no_object_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"^it must be an object"):
        from_dict(Point, values)


def test_types_that_are_no_dataclass() -> None:
    assert from_plain(dict[str, tuple[int, ...]], {"a": [1, 2]}, "table") == {"a": (1, 2)}
    with pytest.raises(InputError, match=r"table\.a\.1 must be a whole number"):
        from_plain(dict[str, tuple[int, ...]], {"a": [1, "2"]}, "table")


def test_a_union_takes_what_any_of_its_types_does() -> None:
    kind = int | Literal["auto"] | None
    assert [from_plain(kind, value, "workers") for value in (3, "auto", None)] == [3, "auto", None]
    with pytest.raises(InputError, match='workers must be a whole number, not "3"; or workers must be one of auto'):
        from_plain(kind, "3", "workers")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"a": NaN}', b"[Infinity]", b"[-Infinity]", b"[" * 100_000, b"1" * 5000, b"'a'"]
)
def test_what_is_no_json_is_one_line(text: bytes) -> None:
    with pytest.raises(InputError, match=r"^not JSON: ") as caught:
        parse_json(text)
    assert len(str(caught.value).splitlines()) == 1


def test_json_is_read_as_bytes_or_text() -> None:
    assert parse_json(b'{"a": "Ri\xc3\x9f"}') == parse_json('{"a": "Riß"}') == {"a": "Riß"}
