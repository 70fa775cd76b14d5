"""Polygons as pixels, by the rule of the COCO tools, and pixels as polygons that give them back exactly.

Coordinates are in pixels from the image's top left corner: x to the right, y down; the first pixel spans 0 to 1. A
pixel is inside where its centre is, by the even-odd rule: what an outline encloses twice is outside again, so holes are
drawn by an outline that goes in and back along a cut. Neither "border pixels in" nor "border pixels out": of a border
that passes through a pixel, the side of the centre decides. As in the COCO tools vertices are rounded to a fifth of a
pixel and edges are walked in steps of that size, in the same arithmetic, so the result equals theirs in every pixel
(`rleFrPoly` in pycocotools' maskApi.c is the source of the rule).
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

_SCALE = 5
"""Steps in a pixel."""
_REACH = 4
"""An outline that leaves the image by more than so many times its size is cut off first."""
_CHUNK = 1 << 20
"""Steps walked at once."""


def fill_polygon(points: np.ndarray, plane: np.ndarray) -> int:
    """Draw a polygon into a mask.

    Args:
        points: (n, 2) float64, x and y of the vertices in order; the last is joined to the first.
        plane: (height, width) uint8, changed in place: 1 where the polygon is.

    Returns:
        The number of pixels inside the polygon.
    """
    height, width = plane.shape
    points = _cut_off(points, height, width)
    if len(points) < 3:
        return 0
    where = np.concatenate([_toggles(*edges, height, width) for edges in _chunks(points)])
    where, counts = np.unique(where, return_counts=True)
    where = where[counts % 2 == 1]  # in columns, from the top: inside and outside change at each
    if len(where) % 2:
        where = np.append(where, height * width)
    if not len(where):
        return 0
    first, stop = int(where[0]) // height, -(-int(where[-1]) // height)
    edges = np.concatenate([[first * height], where, [stop * height]])
    values = np.zeros(len(edges) - 1, np.uint8)
    values[1::2] = 1
    columns = np.repeat(values, np.diff(edges)).reshape(stop - first, height)
    plane[:, first:stop] |= columns.T
    return int(np.diff(where)[::2].sum())


def _chunks(points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Starts and ends of edges (n, 2), in whole steps, few enough at once to be walked."""
    steps = np.trunc(_SCALE * points + 0.5).astype(np.int64)
    ends = np.roll(steps, -1, axis=0)
    walked = np.cumsum(np.abs(ends - steps).max(axis=1) + 1)
    cuts = np.searchsorted(walked, np.arange(_CHUNK, walked[-1], _CHUNK), side="left") + 1
    for part in np.split(np.arange(len(steps)), np.unique(cuts)):
        if len(part):
            yield steps[part], ends[part]


def _toggles(start: np.ndarray, end: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where the edges cross the centre line of a column: pixel numbers down the columns, from which inside changes."""
    delta = np.abs(end - start)
    flat = delta[:, 0] >= delta[:, 1]
    flip = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    length = delta.max(axis=1)
    along, across = np.where(flat, 0, 1), np.where(flat, 1, 0)
    rows = np.arange(len(start))
    slope = (high - low)[rows, across] / np.maximum(length, 1)
    edge = np.repeat(rows, length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flip[edge], length[edge] - step, step)
    main = low[rows, along][edge] + step
    other = np.trunc(low[rows, across][edge] + slope[edge] * step + 0.5).astype(np.int64)
    x, y = np.where(flat[edge], main, other), np.where(flat[edge], other, main)
    crosses = (x[1:] != x[:-1]) & (edge[1:] == edge[:-1])
    x, y = np.minimum(x[1:], x[:-1])[crosses], np.minimum(y[1:], y[:-1])[crosses]
    at_centre = (x % _SCALE == _SCALE // 2) & (x >= 0) & (x < _SCALE * width)
    x, y = x[at_centre] // _SCALE, y[at_centre]
    row = np.ceil(np.clip((y + 0.5) / _SCALE - 0.5, 0, height)).astype(np.int64)
    return x * height + row


def _cut_off(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """A polygon that reaches far outside of the image, without what lies there (Sutherland and Hodgman's clipping)."""
    size = np.array([width, height], np.float64)
    if not len(points) or ((points >= -_REACH * size) & (points <= (_REACH + 1) * size)).all():
        return points
    for axis, bound, sign in ((0, -2.0, 1), (0, width + 2.0, -1), (1, -2.0, 1), (1, height + 2.0, -1)):
        inside = sign * (points[:, axis] - bound) >= 0
        kept: list[np.ndarray] = []
        for at in range(len(points)):
            here, after = points[at], points[(at + 1) % len(points)]
            if inside[at]:
                kept.append(here)
            if inside[at] != inside[(at + 1) % len(points)]:
                share = (bound - here[axis]) / (after[axis] - here[axis])
                crossing = here + share * (after - here)
                crossing[axis] = bound
                kept.append(crossing)
        points = np.array(kept).reshape(-1, 2)
        if not len(points):
            return points
    return points


class Outline(NamedTuple):
    """A part of a mask as a polygon."""

    points: np.ndarray
    """(n, 2) int64, x and y along pixel edges; holes are joined by a cut."""
    area: int
    """Pixels inside."""


class Part(NamedTuple):
    """A part of a mask that hangs together: pixels that share edges."""

    left: int
    top: int
    inside: np.ndarray
    """(height, width) bool: the pixels, in the smallest window around them."""
    area: int
    """Pixels inside."""


def find_parts(plane: np.ndarray) -> Iterator[Part]:
    """The parts of a mask (height, width) of uint8 0/1, in the order of their first pixel by rows."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(plane, connectivity=4, ltype=cv2.CV_32S)
    for part in range(1, count):
        left, top, width, height, area = (int(v) for v in stats[part])
        yield Part(left, top, parts[top : top + height, left : left + width] == part, area)


def trace_part(part: Part) -> np.ndarray:
    """The outline of a part, (n, 2) int64 x and y along the edges of its pixels; holes are joined by a cut."""
    return _join(_loops(np.pad(part.inside, 1))) + np.array([part.left, part.top])


def trace_polygons(plane: np.ndarray) -> list[Outline]:
    """The outlines of a mask, along the edges of its pixels: one polygon for each part that hangs together.

    Args:
        plane: (height, width) uint8 0/1.

    Returns:
        Outlines in the order of their first pixel by rows; `fill_polygon` of all of them gives the mask again.
    """
    return [Outline(trace_part(part), part.area) for part in find_parts(plane)]


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """The closed outlines (n, 2) of a bool mask with an empty border of a pixel: corners alone, x and y, less one.

    On each row and in each column of corners, the first is joined to the second, the third to the fourth and so on.
    """
    quads = [mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]]
    inside = np.sum(quads, axis=0, dtype=np.uint8)
    touching = (inside == 2) & (quads[0] == quads[3])  # two pixels at a corner: two corners at one point
    y, x = np.nonzero((inside % 2 == 1) | touching)
    twice = 1 + touching[y, x].astype(np.int64)
    x, y = np.repeat(x, twice), np.repeat(y, twice)
    beside = np.arange(len(x)) ^ 1  # `nonzero` goes along the rows
    down = np.lexsort((y, x))
    below = np.empty_like(down)
    below[down] = down[np.arange(len(x)) ^ 1]
    points, seen, loops = np.stack([x, y], axis=1), np.zeros(len(x), bool), []
    across, along = beside.tolist(), below.tolist()
    for start in range(len(x)):
        if seen[start]:
            continue
        loop, at = [], start
        while not seen[at]:
            seen[at] = seen[across[at]] = True
            loop += [at, across[at]]
            at = along[across[at]]
        loops.append(points[loop])
    return loops


def _join(loops: list[np.ndarray]) -> np.ndarray:
    """One outline of several: from the first point of the first to each of the others and back the same way."""
    first = loops[0]
    parts = [first]
    for loop in loops[1:]:
        parts += [first[:1], loop, loop[:1]]
    return np.concatenate(parts)
