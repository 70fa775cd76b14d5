"""Where synthetic defects lie: areas drawn from the real distributions, shapes as annotators outline them.

Lengths are in units of a 256-pixel-high image and areas in shares of a 256x1600 one, so smaller images show the same
scene at a lower resolution.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

REAL_HEIGHT, REAL_WIDTH = 256, 1600
NUM_CLASSES = 4


@dataclass(frozen=True)
class AreaLaw:
    """How a class's mask area in an image is distributed: extremes and quartiles, in pixels of a 256x1600 image."""

    smallest: float
    lower: float
    median: float
    upper: float
    largest: float
    tail: float
    """Bends the upper quarter, so that the mean comes out right."""

    def quantile(self, share: float) -> float:
        """The area that a `share` of the masks stay below; log-linear between the quartiles."""
        quarter, along = min(int(share * 4), 3), share * 4 % 1 if share < 1 else 1.0
        knots = (self.smallest, self.lower, self.median, self.upper, self.largest)
        bend = (0.27, 1.0, 1.0, self.tail)[quarter]  # few masks are as small as the smallest
        return knots[quarter] * (knots[quarter + 1] / knots[quarter]) ** (along**bend)


AREA_LAWS = (
    AreaLaw(163, 1713, 3243, 5773, 31303, 3.6),
    AreaLaw(316, 2026, 3086, 4612, 14023, 3.3),
    AreaLaw(150, 5045, 12151, 29399, 356308, 3.2),
    AreaLaw(491, 13248, 25352, 45025, 192780, 2.2),
)


def draw_area(rng: np.random.Generator, look: int) -> float:
    """Total mask area of one class in one image, as a share of the image; `look` is the class id, 1 to 4."""
    return AREA_LAWS[look - 1].quantile(float(rng.random())) / (REAL_HEIGHT * REAL_WIDTH)


def draw_mask(
    rng: np.random.Generator, look: int, area: float, taken: np.ndarray, extent: tuple[int, int]
) -> np.ndarray:
    """Outline defects of one class.

    Args:
        rng: source of all choices.
        look: the class id, 1 to 4, whose shapes are drawn.
        area: total area wanted, in pixels; met to a few per cent unless the free part of the strip is too small.
        taken: (H, W) uint8, nonzero where other defects already lie; avoided where there is room.
        extent: columns `[first, last)` that show steel.

    Returns:
        (H, W) uint8 of 0 and 1.
    """
    height = taken.shape[0]
    unit = height / REAL_HEIGHT
    mask = np.zeros_like(taken)
    for part in _split_area(rng, look, area, unit):
        shape = _draw_shape(rng, look, part, unit, height, extent[1] - extent[0])
        mask |= _place(rng, shape, part, taken | mask, extent)
    if not mask.any():  # a defect below a pixel's size: keep at least one, so the image stays defective
        mask[height // 2, (extent[0] + extent[1]) // 2] = 1
    return mask


def _split_area(rng: np.random.Generator, look: int, area: float, unit: float) -> np.ndarray:
    """The areas of the separate defects; larger totals come in more pieces."""
    full = area / unit**2
    mean_extra = {
        1: max(0.1, full / 1250 - 0.6),
        2: 0.25,
        3: min(3.0, 0.4 + math.sqrt(full / 12151)),
        4: min(2.2, 0.3 + 0.7 * math.sqrt(full / 25352)),
    }[look]
    smallest = {1: 300, 2: 500, 3: 300, 4: 600}[look] * unit**2
    pieces = int(min(1 + rng.poisson(mean_extra), 16, max(1, area // smallest)))
    shares = rng.dirichlet(np.full(pieces, 3.0))
    return np.asarray(area * shares)


@dataclass(frozen=True)
class _Shape:
    """A closed outline around the origin."""

    outline: np.ndarray
    """(n, 2) float x and y, in pixels."""
    keep_height: bool
    """Whether only the width gives way when an area is to be met."""


def _draw_shape(rng: np.random.Generator, look: int, area: float, unit: float, height: int, strip: int) -> _Shape:
    if look == 1:
        w, h = _sides(area / 0.75, 1.7 * math.exp(0.4 * rng.standard_normal()), 0.95 * height, strip)
        return _Shape(_blob(rng, w, h, vertices=int(rng.integers(6, 12)), roughness=0.12), keep_height=False)
    if look == 2:
        w, h = _sides(area / 0.9, 8.5 * math.exp(0.35 * rng.standard_normal()), height, strip)
        return _Shape(_quad(rng, w, h, slant=0.05), keep_height=True)
    if look == 4:
        w, h = _sides(area / 0.7, 0.8 * math.exp(0.4 * rng.standard_normal()), height, 0.9 * strip)
        return _Shape(_blob(rng, w, h, vertices=40, roughness=0.2), keep_height=False)
    kind = rng.random()
    if kind < 0.1:  # lying
        w, h = _sides(area / 0.85, 0.22 * math.exp(0.3 * rng.standard_normal()), height, 0.9 * strip)
        return _Shape(_quad(rng, h, w, slant=0.15)[:, ::-1], keep_height=False)
    if kind < 0.25:  # compact
        w, h = _sides(area / 0.8, 1.3 * math.exp(0.3 * rng.standard_normal()), height, 0.9 * strip)
        return _Shape(_blob(rng, w, h, vertices=int(rng.integers(6, 10)), roughness=0.1), keep_height=False)
    w, h = _sides(area / 0.92, 9.0 * math.exp(0.5 * rng.standard_normal()), height, 0.95 * strip)
    return _Shape(_quad(rng, max(w, 14 * unit), h, slant=0.05), keep_height=h > 0.9 * height)


def _sides(box: float, aspect: float, most_height: float, most_width: float) -> tuple[float, float]:
    """Width and height of a box of area `box`, height / width near `aspect`, that fits the room there is."""
    h = min(math.sqrt(box * aspect), most_height)
    w = min(box / h, most_width)
    return w, min(box / w, most_height)


def _quad(rng: np.random.Generator, w: float, h: float, slant: float) -> np.ndarray:
    """A standing strip as annotators click it: a few points down each side, a little askew."""
    knots = int(rng.integers(2, 5))
    y = np.linspace(-h / 2, h / 2, knots)
    lean = y * rng.normal(0, slant)
    left = -w / 2 + lean + rng.normal(0, 0.06 * w, knots)
    right = w / 2 + lean + rng.normal(0, 0.06 * w, knots)
    return np.concatenate([np.stack([left, y], 1), np.stack([right, y], 1)[::-1]])


def _blob(rng: np.random.Generator, w: float, h: float, vertices: int, roughness: float) -> np.ndarray:
    """A rounded region: an ellipse whose radius wavers."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radius = np.ones(vertices)
    for wave in range(2, 7):
        radius += (
            roughness / math.sqrt(wave - 1) * rng.normal(0, 0.7) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        )
    radius = np.clip(radius, 0.35, 1.6)
    return np.stack([w / 2 * radius * np.cos(angle), h / 2 * radius * np.sin(angle)], 1)


def _place(
    rng: np.random.Generator, shape: _Shape, area: float, taken: np.ndarray, extent: tuple[int, int]
) -> np.ndarray:
    """Rasterise a shape at a free place, scaled until what the image's edges leave of it has the wanted area."""
    height = taken.shape[0]
    best, best_overlap = (0.0, 0.0), math.inf
    half_w, half_h = np.abs(shape.outline).max(axis=0)
    # Shapes may stick out at the top and the bottom (the strip goes on there), hardly at the sides.
    slack = 0.3 * half_h if not shape.keep_height else 0.0
    for _ in range(12):
        x = _between(rng, extent[0] + half_w, extent[1] - half_w)
        y = _between(rng, half_h - slack, height - half_h + slack)
        y0, y1 = max(0, int(y - half_h)), max(1, int(y + half_h) + 1)
        x0, x1 = max(0, int(x - half_w)), max(1, int(x + half_w) + 1)
        overlap = float(np.count_nonzero(taken[y0:y1, x0:x1]))
        if overlap < best_overlap:
            best, best_overlap = (x, y), overlap
        if overlap == 0:
            break
    scale = np.ones(2)
    mask = np.zeros_like(taken)
    for _ in range(4):
        mask[:] = 0
        points = np.round((shape.outline * scale + best) * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 1, shift=4)
        mask[:, : extent[0]] = 0
        mask[:, extent[1] :] = 0
        found = max(1, int(np.count_nonzero(mask)))
        if 0.95 < found / area < 1.05:
            break
        scale *= (area / found, 1.0) if shape.keep_height else (math.sqrt(area / found),) * 2
    return mask


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high)) if low < high else (low + high) / 2
