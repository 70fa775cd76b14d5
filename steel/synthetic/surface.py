"""Rolled steel without defects: light, grain, streaks, stains, strip edges and harmless marks."""

import math

import cv2
import numpy as np

from steel.synthetic.marks import Canvas, Style, add_dashes, add_pits
from steel.synthetic.masks import REAL_HEIGHT, REAL_WIDTH
from steel.synthetic.noise import smooth_curve, smooth_noise, soft_step, white_noise

BLACK_SHARE = 0.2
"""Share of images in which an edge of the strip, and black beside it, is seen."""


def draw_extent(rng: np.random.Generator, width: int, keep: tuple[int, int]) -> tuple[int, int]:
    """Columns `[first, last)` that show steel; all of them in most images. Never cuts into the columns `keep`."""
    if rng.random() >= BLACK_SHARE:
        return 0, width
    black = int(width * min(0.85, rng.exponential(0.2) + 0.02))
    if rng.random() < 0.5:
        return min(black, keep[0]), width
    return 0, max(width - black, keep[1])


def draw_light(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) float32 gray level of the bare strip: uneven along both sides and from image to image."""
    level = math.exp(rng.normal(math.log(98), 0.25)) if rng.random() > 0.02 else rng.uniform(25, 45)
    scale = width / REAL_WIDTH
    columns = sum(
        strength * smooth_curve(rng, width, cell * scale) for cell, strength in ((700, 0.18), (180, 0.09), (50, 0.03))
    )
    across = np.linspace(-1, 1, height, dtype=np.float32)
    rows = rng.normal(0.12, 0.22) * across + rng.normal(0.03, 0.12) * across**2
    patches = 0.05 * smooth_noise(rng, height, width, height / 3, 300 * scale)
    return np.asarray(level * np.exp(columns + rows[:, None] + patches), np.float32)


def draw_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) float32 relative brightness of the rolled surface around 1: grain, ripples, streaks, scale and stains."""
    unit = height / REAL_HEIGHT
    roughness = min(1.7, math.exp(rng.normal(0, 0.35)))
    grain = cv2.GaussianBlur(white_noise(rng, height, width), (0, 0), rng.uniform(0.45, 0.7))
    texture = grain * np.float32(0.15 * roughness)
    texture += smooth_noise(rng, height, width, 1.6, unit * rng.uniform(8, 30)) * np.float32(
        rng.uniform(0.01, 0.05) * roughness
    )
    texture += smooth_noise(rng, height, width, unit * rng.uniform(30, 90), 1.8) * np.float32(rng.uniform(0.01, 0.03))
    texture += smooth_noise(rng, height, width, unit * rng.uniform(40, 200), unit * rng.uniform(5, 12)) * np.float32(
        rng.uniform(0.015, 0.04)
    )
    texture += smooth_noise(rng, height, width, 3 * unit, 3 * unit) * np.float32(rng.uniform(0.005, 0.02))
    texture += smooth_noise(rng, height, width, 8 * unit, 8 * unit) * np.float32(rng.uniform(0.0, 0.015))
    texture += _roughness(rng, height, width, unit)
    return (1 + texture) * (1 + _scale(rng, height, width, unit)) * (1 + _stains(rng, height, width, unit))


def _envelope(rng: np.random.Generator, width: int, cell: float, share: float) -> np.ndarray:
    """(W,) float32 in 0..1: about a `share` of the columns, in bands."""
    threshold = float(np.quantile(field := smooth_curve(rng, width, cell), 1 - share))
    return soft_step(field, threshold, 1.0)


def _scale(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Oxide scale: tongues with sharp sides, drawn out along the rolling direction, in bands of columns."""
    field = smooth_noise(rng, height, width, unit * rng.uniform(25, 60), unit * rng.uniform(5, 12))
    field += 0.5 * smooth_noise(rng, height, width, unit * 14, unit * 4)
    tongues = soft_step(field, rng.uniform(0.2, 1.0), 0.25)
    bands = _envelope(rng, width, 150 * unit, rng.uniform(0.3, 0.7))
    return tongues * bands * np.float32(rng.choice((-1, 1), p=(0.75, 0.25)) * rng.uniform(0.06, 0.3))


def _stains(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Dark patches as large as class 4's, with washed-out borders."""
    field = smooth_noise(rng, height, width, 70 * unit, 90 * unit)
    field += 0.25 * smooth_noise(rng, height, width, 20 * unit, 20 * unit)
    return soft_step(field, rng.uniform(1.0, 2.2), 1.0) * np.float32(-rng.uniform(0.1, 0.4))


def _roughness(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Places where the grain is as strong as defects are: blotches and bands, without outline or relief."""
    grain = cv2.GaussianBlur(white_noise(rng, height, width), (0, 0), max(0.6, unit * rng.uniform(0.9, 1.6)))
    blotches = soft_step(smooth_noise(rng, height, width, 60 * unit, 60 * unit), rng.uniform(0.3, 1.4), 1.2)
    bands = _envelope(rng, width, 120 * unit, rng.uniform(0.05, 0.4))
    strength = np.maximum(blotches, bands) * np.float32(rng.uniform(0.25, 0.7))
    if rng.random() < 0.7:  # a few glitter
        field = smooth_noise(rng, height, width, 150 * unit, 50 * unit)
        strength += soft_step(field, rng.uniform(1.2, 2.0), 0.8) * np.float32(rng.uniform(0.5, 1.3))
    return strength * grain


def add_harmless_marks(rng: np.random.Generator, canvas: Canvas, style: Style) -> None:
    """Scattered pits and dashes, of the sizes and contrasts of those in defects."""
    height, width = canvas.delta.shape
    room = height * width / style.unit**2
    number = int(room / 5000 * rng.uniform(0.2, 1))
    add_pits(rng, canvas, rng.uniform(0, width, number), rng.uniform(0, height, number), style)
    bands = _envelope(rng, width, 100 * style.unit, 0.3)
    x = rng.uniform(0, width, int(room / 1200 * rng.random()))
    x = x[rng.random(len(x)) < bands[x.astype(int)]]
    add_pits(rng, canvas, x, rng.uniform(0, height, len(x)), style)
    for target, each in ((canvas, 4800), (canvas.transposed, 30000)):
        number = int(room / each * rng.uniform(0.2, 1))
        h, w = target.delta.shape
        add_dashes(rng, target, rng.uniform(0, w, number), rng.uniform(-10 * style.unit, h, number), style)


def add_paint(rng: np.random.Generator, canvas: Canvas) -> None:
    """White paint dabbed on in a few columns: glaring, and no defect."""
    height, width = canvas.delta.shape
    unit = height / REAL_HEIGHT
    span = int(min(width, unit * rng.uniform(100, 220)))
    left = int(rng.integers(0, width - span + 1))
    field = smooth_noise(rng, height, span, 22 * unit, 10 * unit) + 0.7 * smooth_noise(
        rng, height, span, 6 * unit, 5 * unit
    )
    columns = np.abs(smooth_curve(rng, span, 28 * unit))
    blots = soft_step(field - 2.2 * columns[None, :], 0.3, 0.3)
    hollow = soft_step(smooth_noise(rng, height, span, 7 * unit, 7 * unit), 1.3, 0.5)
    canvas.delta[:, left : left + span] += blots * (1 - 0.8 * hollow) * np.float32(3)


def add_edges(rng: np.random.Generator, image: np.ndarray, extent: tuple[int, int]) -> None:
    """Blacken, in place, what lies beside the strip; the strip's border is slightly darker and ragged.

    Args:
        rng: source of all choices.
        image: (H, W) float32 gray levels.
        extent: columns `[first, last)` that show steel.
    """
    height, width = image.shape
    unit = height / REAL_HEIGHT
    position = np.arange(width, dtype=np.float32)[None, :]
    wander = (smooth_curve(rng, height, 90 * unit) * np.float32(1.2 * unit))[:, None]
    for edge, side in ((extent[0], 1), (extent[1], -1)):
        if edge in (0, width):
            continue
        distance = (position - edge - wander) * side  # to the strip's inside
        shade = soft_step(distance, 0, 3) * (1 - 0.25 * np.exp(-np.maximum(distance, 0) / np.float32(18 * unit)))
        image *= shade
        image += (1 - soft_step(distance, 0, 3)) * np.float32(rng.uniform(2, 6))
