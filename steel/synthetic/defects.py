"""Renders defects into given masks, each class in its own look.

Class 1: a crowd of small pits. Class 2: one thin standing trace. Class 3: several traces side by side, standing or
lying. Class 4: a rounded region in relief. Masks are taken as annotators draw them, somewhat wider than what they
enclose, so much of what a mask covers is ordinary surface.
"""

import cv2
import numpy as np

from steel.synthetic.marks import Canvas, Style, add_pits, add_trace
from steel.synthetic.masks import NUM_CLASSES
from steel.synthetic.noise import smooth_noise, soft_step

_TINTS = (0.22, 0.07, 0.07, 0.08)
"""Change of brightness under each class; the larger a class's regions, the less, as light varies over large ones."""


def add_defects(rng: np.random.Generator, canvas: Canvas, mask: np.ndarray, class_id: int, style: Style) -> None:
    """Draw one class's defects.

    Args:
        rng: source of all choices.
        canvas: where to draw.
        mask: (H, W) uint8 of 0 and 1: where the defects are.
        class_id: from 1; classes beyond 4 look like 1 to 4 again.
        style: the image's strokes, which its harmless marks share.
    """
    look = (class_id - 1) % NUM_CLASSES + 1
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    for part in range(1, count):
        x, y, w, h, _ = boxes[part]
        inside = labels[y : y + h, x : x + w] == part
        _add_tint(rng, canvas.delta[y : y + h, x : x + w], inside, _TINTS[look - 1] * style.tint, style.unit)
        if look == 1:
            _add_crowd(rng, canvas, inside, x, y, style)
        elif look == 4:
            _add_relief(rng, canvas.delta[y : y + h, x : x + w], inside, style.unit)
        elif w > 1.5 * h:
            _add_traces(rng, canvas.transposed, inside.T, y, x, look, style)
        else:
            _add_traces(rng, canvas, inside, x, y, look, style)


def _add_tint(rng: np.random.Generator, delta: np.ndarray, inside: np.ndarray, tint: float, unit: float) -> None:
    """Shift the region's brightness by less than the light varies: only its border shows, and gives its shape away."""
    depth = _depth(inside)
    margin = rng.uniform(0.05, 0.25) * float(depth.max())
    delta += soft_step(depth, margin, max(1.5, 3 * unit)) * np.float32(tint * rng.uniform(0.9, 1.1))


def _depth(inside: np.ndarray) -> np.ndarray:
    """(h, w) float32 distance of each pixel of a region to its outline, in pixels; 0 outside."""
    return cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]


def _add_crowd(rng: np.random.Generator, canvas: Canvas, inside: np.ndarray, left: int, top: int, style: Style) -> None:
    rows, columns = np.nonzero(inside)
    number = max(2, int(len(rows) / (100 * style.unit**2)))
    chosen = rng.integers(0, len(rows), number)
    # Outlines are drawn around the marks, so the marks keep off them.
    middle_x, middle_y = columns.mean(), rows.mean()
    x = left + middle_x + (columns[chosen] - middle_x) * 0.85 + rng.random(number)
    y = top + middle_y + (rows[chosen] - middle_y) * 0.9 + rng.random(number)
    add_pits(rng, canvas, x, y, style)


def _add_traces(
    rng: np.random.Generator, canvas: Canvas, inside: np.ndarray, left: int, top: int, look: int, style: Style
) -> None:
    """Standing traces that run down a region; one in class 2, two and more in class 3."""
    h, w = inside.shape
    first = left + _smooth_rows(inside.argmax(axis=1))
    last = left + _smooth_rows(w - 1 - inside[:, ::-1].argmax(axis=1))
    if look == 2:
        shares = rng.uniform(0.4, 0.6, 1)
    else:
        number = max(2, round(float(np.median(last - first)) * 0.8 / (style.unit * rng.uniform(16, 26))))
        shares = np.clip((np.arange(number) + 0.5 + rng.normal(0, 0.2, number)) / number, 0.1, 0.9)
    margin = int(min(3 * style.unit, h / 8))
    for share in shares:
        start, end = margin, h - margin
        if len(shares) > 2:  # some of many end half-way
            start += int(h * 0.6 * max(0.0, rng.uniform(-1, 1)))
            end -= int(h * 0.6 * max(0.0, rng.uniform(-1, 1)))
        if end - start > h * 0.3:
            line = (first + share * (last - first))[start:end]
            add_trace(rng, canvas, line, top + start, 1.5 if look == 2 else 1.2, style)


def _smooth_rows(edge: np.ndarray) -> np.ndarray:
    """(h,) an outline's column in each row, without its corners."""
    reach = max(1, len(edge) // 6) | 1
    return cv2.blur(edge.astype(np.float32)[:, None], (1, reach), borderType=cv2.BORDER_REPLICATE)[:, 0]


def _add_relief(rng: np.random.Generator, delta: np.ndarray, inside: np.ndarray, unit: float) -> None:
    """A region of lifted or folded steel: shaded from one side, cracked, with a lit rim."""
    h, w = inside.shape
    solid = np.pad(inside.astype(np.float32), 1)
    alpha = cv2.GaussianBlur(solid, (0, 0), max(0.5, 1.2 * unit))[1:-1, 1:-1]
    cell = unit * rng.uniform(22, 34)
    height_map = smooth_noise(rng, h, w, cell * rng.uniform(0.5, 1), cell) + 0.2 * smooth_noise(
        rng, h, w, cell / 3, cell / 2.5
    )
    smooth = cv2.GaussianBlur(height_map, (0, 0), max(0.6, 3 * unit))
    sun = rng.uniform(0, np.pi)  # lit from any side
    slope = np.float32(np.cos(sun)) * _slope(smooth, axis=1) + np.float32(np.sin(sun)) * _slope(smooth, axis=0)
    lit = np.clip(slope / max(float(slope.std()), 1e-6), -2, 2)
    folds = smooth_noise(rng, h, w, cell * 1.5, cell * 2.5)
    cracks = np.exp(-((folds / 0.1) ** 2))
    rim = np.exp(-((_depth(inside) / np.float32(3.5 * unit)) ** 2)) * soft_step(
        smooth_noise(rng, h, w, 24 * unit, 24 * unit), 0.0, 1.5
    )
    strength = rng.uniform(0.14, 0.25)
    shading = strength * lit - 0.1 * cracks + rim * rng.uniform(0.1, 0.3)
    delta += alpha * shading


def _slope(surface: np.ndarray, axis: int) -> np.ndarray:
    """The surface's change a pixel; none along an axis of one pixel, as real masks have them in stray specks."""
    return np.gradient(surface, axis=axis) if surface.shape[axis] > 1 else np.zeros_like(surface)
