"""Polygons as pixels: equal to the COCO tools in every pixel, to skimage but for the border; and back again."""

import numpy as np
import pytest
from pycocotools import mask as coco_tools
from skimage.draw import polygon2mask
from skimage.measure import points_in_poly

from steel.labels.polygon import fill_polygon, trace_polygons


def fill(points: object, height: int, width: int) -> np.ndarray:
    plane = np.zeros((height, width), np.uint8)
    area = fill_polygon(np.array(points, np.float64).reshape(-1, 2), plane)
    assert area == plane.sum()
    return plane


def by_coco(points: object, height: int, width: int) -> np.ndarray:
    flat = np.array(points, np.float64).ravel().tolist()
    return coco_tools.decode(coco_tools.frPyObjects([flat], height, width))[:, :, 0]


@pytest.mark.parametrize("kind", ["anywhere", "corners", "halves", "outside", "far outside", "tall"])
def test_every_pixel_is_that_of_the_coco_tools(kind: str) -> None:
    """Random outlines of 3 to 12 points cross themselves more often than not."""
    random = np.random.default_rng(len(kind))
    for _ in range(60):
        height, width = random.integers(1, 60, 2).tolist() if kind != "tall" else (300, 3)
        points = random.random((random.integers(3, 13), 2)) * [width, height]
        if kind == "corners":
            points = np.round(points)
        elif kind == "halves":
            points = np.round(2 * points) / 2
        elif kind.endswith("outside"):
            middle = np.array([width, height]) / 2
            points = middle + (points - middle) * (7 if kind == "far outside" else 3)
        assert np.array_equal(fill(points, height, width), by_coco(points, height, width))


def test_a_pixel_is_inside_where_its_centre_is() -> None:
    """skimage's polygons have pixel centres at whole numbers; only centres within a fifth of a pixel may differ."""
    random = np.random.default_rng(0)
    angles = np.sort(random.random(40)) * 2 * np.pi
    points = np.stack([50 + 37 * np.cos(angles), 40 + 29 * np.sin(angles)], axis=1)
    ours = fill(points, 80, 100)
    centres = polygon2mask((80, 100), points[:, ::-1] - 0.5)
    differing = np.argwhere(ours != centres)
    assert len(differing) < 20
    for y, x in differing + 0.5:
        moved = [(x + dx, y + dy) for dx in (-0.3, 0, 0.3) for dy in (-0.3, 0, 0.3)]
        assert len(set(points_in_poly(moved, points).tolist())) == 2, "the border passes elsewhere"


def test_the_border_belongs_to_the_side_of_the_centre() -> None:
    """By hand: a square from 1 to 3 covers the pixels 1 and 2; one from 0.6 to 2.4 the pixel 1 alone."""
    assert fill([1, 1, 3, 1, 3, 3, 1, 3], 4, 4).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert np.argwhere(fill([0.6, 0.6, 2.4, 0.6, 2.4, 2.4, 0.6, 2.4], 4, 4)).tolist() == [[1, 1]]


def test_what_is_enclosed_twice_is_a_hole() -> None:
    outer, inner = [0, 0, 6, 0, 6, 6, 0, 6, 0, 0], [2, 2, 4, 2, 4, 4, 2, 4, 2, 2]
    expected = np.ones((6, 6), np.uint8)
    expected[2:4, 2:4] = 0
    assert np.array_equal(fill(outer + inner, 6, 6), expected)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [1, 1],
        [1, 1, 3, 3],
        [1, 1, 3, 3, 1, 1],
        [2, 2, 2, 2, 2, 2],
        [0.1, 0.1, 0.2, 0.1, 0.2, 0.2],
        [-9, -9, -3, -9, -3, -3],
        [1e9, 1e9, 2e9, 1e9, 2e9, 2e9],
    ],
)
def test_shapes_without_area_cover_nothing(points: list[float]) -> None:
    assert not fill(points, 5, 7).any()


def test_a_polygon_far_beyond_the_image_costs_its_part_inside() -> None:
    """Half a plane: left of the line from (2.5, -1e9) to (2.5, 1e9)."""
    found = fill([2.5 - 1e9, -1e9, 2.5, -1e9, 2.5, 1e9, 2.5 - 1e9, 1e9], 300, 400)
    assert found[:, :2].all() and not found[:, 3:].any()


def test_long_outlines_are_walked_in_parts() -> None:
    """A zigzag of 3 million steps, more than are walked at once."""
    x = np.arange(200.0)
    points = np.stack([np.concatenate([x, x[::-1]]), np.tile([0.0, 1500.0], 200)], axis=1)
    assert np.array_equal(fill(points, 1500, 200), by_coco(points, 1500, 200))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_outlines_of_a_mask_give_it_back(share: float) -> None:
    """Random pixels: holes, parts that touch at corners, parts inside holes of others."""
    random = np.random.default_rng(int(10 * share))
    for _ in range(20):
        mask = (random.random(random.integers(1, 40, 2)) < share).astype(np.uint8)
        outlines = trace_polygons(mask)
        again = np.zeros_like(mask)
        for points, area in outlines:
            assert fill_polygon(points.astype(np.float64), again) == area
        assert np.array_equal(again, mask)
        if outlines:
            rings = [outline.points.ravel().tolist() for outline in outlines]
            theirs = coco_tools.merge(coco_tools.frPyObjects(rings, *mask.shape))
            assert np.array_equal(coco_tools.decode(theirs), mask)


def test_an_outline_has_corners_alone() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:7, 3:8] = 1
    ((points, area),) = trace_polygons(mask)
    assert sorted(points.tolist()) == [[3, 2], [3, 7], [8, 2], [8, 7]]
    assert area == 25
