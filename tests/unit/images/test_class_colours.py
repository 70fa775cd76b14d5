"""The classes' colours, as they are seen with each kind of colour blindness."""

import itertools

import numpy as np
import pytest

from steel.images.class_colours import CLASS_COLOURS, class_colour, hex_colour, line_colour
from steel.images.tags import ink_on

SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""What is seen of linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), severity 1."""


def linear(colours: np.ndarray) -> np.ndarray:
    """sRGB of 0 to 255 as linear light of 0 to 1 (IEC 61966-2-1)."""
    shares = np.asarray(colours, float) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(light, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("matrix", SIGHT.values(), ids=SIGHT)
def test_everybody_can_tell_the_classes_apart(matrix: np.ndarray) -> None:
    """2.3 is just noticed in patches side by side; of the palette of Okabe and Ito the least is 16."""
    seen = lab(linear(CLASS_COLOURS) @ np.array(matrix).T)
    distance = {(i, j): np.linalg.norm(seen[i] - seen[j]) for i, j in itertools.combinations(range(8), 2)}
    assert min(distance.values()) > 25
    assert min(distance[i, j] for i, j in itertools.combinations(range(4), 2)) > 45


def test_they_are_distinct_beyond_the_fixed_ones() -> None:
    colours = [class_colour(class_id) for class_id in range(1, 16)]
    assert len(set(colours)) == 15
    red, green, blue = class_colour(1)
    assert blue > max(red, green)
    assert hex_colour(3) == "#ffe500"


def test_a_name_on_any_of_them_can_be_read() -> None:
    for colour in map(class_colour, range(1, 40)):
        ground = linear(colour) @ [0.2126, 0.7152, 0.0722]
        ink = {"black": 0.0, "white": 1.0}[ink_on(colour)]
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5


def test_a_line_of_any_of_them_is_seen_on_white() -> None:
    lines = [line_colour(class_id) for class_id in range(1, 40)]
    for line in lines:
        ground = linear(list(bytes.fromhex(line[1:]))) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (ground + 0.05) >= 3
    assert [lines[0], lines[3]] == [hex_colour(1), hex_colour(4)]  # dark enough as they are
    seen = lab(linear([list(bytes.fromhex(line[1:])) for line in lines[:8]]))
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 15
