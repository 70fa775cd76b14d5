"""Marks on synthetic steel, defects and harmless ones alike, as relative changes of brightness.

Defects and harmless marks are made of the same strokes: pits, dashes and patches with the same widths and contrasts.
What makes a defect is the arrangement over tens of pixels (a crowd of pits, dashes that line up, a closed region in
relief), so that no statistic of a few pixels tells them apart.
"""

import math
from dataclasses import dataclass

import numpy as np

REACH = 13
"""Half the side of a stroke's patch, in pixels; canvases have a margin this wide."""


class Canvas:
    """Relative brightness changes of an image, to which strokes are added.

    `delta` is (H, W) float32: 0 leaves the surface as it is, -0.3 darkens by 30 %.
    """

    def __init__(self, height: int, width: int) -> None:
        self._padded = np.zeros((height + 2 * REACH, width + 2 * REACH), np.float32)
        self.delta = self._padded[REACH : REACH + height, REACH : REACH + width]

    @property
    def transposed(self) -> "Canvas":
        """The same canvas with rows and columns exchanged; strokes on it land here."""
        other = Canvas.__new__(Canvas)
        other._padded = self._padded.T
        other.delta = self.delta.T
        return other

    def add(self, tops: np.ndarray, lefts: np.ndarray, patches: np.ndarray) -> None:
        """Add small patches.

        Args:
            tops: (n,) int rows of the patches' first rows; patches that do not fit wholly are left out.
            lefts: (n,) int columns, likewise.
            patches: (n, h, w) float32.
        """
        _, h, w = patches.shape
        rows, columns = tops + REACH, lefts + REACH
        fits = (
            (rows >= 0) & (columns >= 0) & (rows + h <= self._padded.shape[0]) & (columns + w <= self._padded.shape[1])
        )
        rows, columns, patches = rows[fits], columns[fits], patches[fits]
        np.add.at(
            self._padded,
            (rows[:, None, None] + np.arange(h)[:, None], columns[:, None, None] + np.arange(w)),
            patches,
        )


@dataclass(frozen=True)
class Style:
    """What all strokes of an image have in common, those of defects and harmless ones alike."""

    contrast: float
    """Typical relative change of brightness."""
    bright_share: float
    """Share of dashes that are brighter than the surface."""
    tint: float
    """How much darker (below 0) or brighter the surface under defects is than is usual for their class."""
    unit: float
    """Pixels per pixel of a 256-pixel-high image."""


def draw_style(rng: np.random.Generator, unit: float) -> Style:
    """An image's strokes: mostly dark, sometimes mixed or bright."""
    bright_share = float(rng.choice((0.05, 0.5, 0.95), p=(0.75, 0.15, 0.1)))
    tint = float(rng.uniform(0.9, 1.2)) * (-1 if rng.random() < 0.75 else 1)
    return Style(float(rng.uniform(0.24, 0.4)), bright_share, tint, unit)


def add_pits(rng: np.random.Generator, canvas: Canvas, x: np.ndarray, y: np.ndarray, style: Style) -> None:
    """Small pits: a bright flank beside a dark one, each turned its own way.

    Args:
        rng: source of all choices.
        canvas: where to draw.
        x: (n,) float centres' columns.
        y: (n,) float centres' rows.
        style: the image's strokes.
    """
    n = len(x)
    size = np.maximum(0.55, style.unit * rng.uniform(1.4, 2.8, n))[:, None, None]
    turn = rng.uniform(0, 2 * np.pi, n)[:, None, None]
    strength = (1.4 * style.contrast * rng.lognormal(0, 0.4, n))[:, None, None]
    bright = rng.uniform(0.4, 1.6, n)[:, None, None]
    dark = rng.uniform(0.2, 1.0, n)[:, None, None]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    side = np.arange(-REACH, REACH + 1)
    dx = side[None, None, :] - (x - left)[:, None, None]
    dy = side[None, :, None] - (y - top)[:, None, None]
    ox, oy = np.cos(turn) * size * 0.8, np.sin(turn) * size * 0.8
    lit = np.exp(-((dx - ox) ** 2 + (dy - oy) ** 2) / (2 * size**2))
    shaded = np.exp(-((dx + ox) ** 2 + (dy + oy) ** 2) / (2 * size**2))
    canvas.add(top - REACH, left - REACH, (strength * (bright * lit - dark * shaded)).astype(np.float32))


def add_dashes(rng: np.random.Generator, canvas: Canvas, x: np.ndarray, y: np.ndarray, style: Style) -> None:
    """Thin standing dashes that fade at both ends; lying ones on a transposed canvas.

    Args:
        rng: source of all choices.
        canvas: where to draw.
        x: (n,) float columns of the upper ends.
        y: (n,) float rows of the upper ends.
        style: the image's strokes.
    """
    _stroke(rng, canvas, x, y, _lengths(rng, len(x), style), _contrasts(rng, len(x), style), style)


def add_trace(
    rng: np.random.Generator, canvas: Canvas, line: np.ndarray, first_row: float, strength: float, style: Style
) -> None:
    """Dashes that follow one another down a line.

    Args:
        rng: source of all choices.
        canvas: where to draw.
        line: (h,) float column of the line in each of its rows.
        first_row: where it begins.
        strength: contrast, as a multiple of the style's.
        style: the image's strokes.
    """
    most = int(len(line) / max(2.0, 4 * style.unit)) + 2
    lengths = _lengths(rng, most, style)
    starts = np.cumsum(0.65 * lengths) - lengths  # each begins before the last one has faded
    lengths = np.minimum(lengths, len(line) - starts)
    kept = lengths > 1.5
    starts, lengths = starts[kept], lengths[kept]
    x = np.interp(starts + lengths / 2, np.arange(len(line)), line) + rng.normal(0, 0.8 * style.unit, len(starts))
    sign = 1.2 if rng.random() < style.bright_share else -1.0
    contrast = sign * style.contrast * strength * rng.uniform(0.9, 1.1) * rng.lognormal(0, 0.15, len(starts))
    _stroke(rng, canvas, x, first_row + starts, lengths, contrast, style)


def _lengths(rng: np.random.Generator, n: int, style: Style) -> np.ndarray:
    """(n,) float lengths of dashes in pixels."""
    return np.asarray(style.unit * np.exp(rng.normal(math.log(20), 0.35, n)))


def _contrasts(rng: np.random.Generator, n: int, style: Style) -> np.ndarray:
    """(n,) float signed contrasts of dashes."""
    sign = np.where(rng.random(n) < style.bright_share, 1.2, -1.0)
    return np.asarray(sign * np.clip(style.contrast * rng.lognormal(0, 0.35, n), 0.05, 0.8))


def _stroke(
    rng: np.random.Generator,
    canvas: Canvas,
    x: np.ndarray,
    y: np.ndarray,
    length: np.ndarray,
    contrast: np.ndarray,
    style: Style,
) -> None:
    """Draw standing dashes of given (n,) places, lengths and contrasts, one row of a dash at a time."""
    n = len(x)
    thickness = np.maximum(0.5, style.unit * rng.uniform(2.8, 5.0, n))
    lean = rng.normal(0, 0.03, n)
    rows_each = np.maximum(2, np.round(length).astype(int))
    which = np.repeat(np.arange(n), rows_each)
    step = np.arange(len(which)) - np.repeat(np.cumsum(rows_each) - rows_each, rows_each)
    along = (step + 0.5) / rows_each[which]
    strength = contrast[which] * np.sin(np.pi * along) * rng.uniform(0.85, 1.15, len(which))
    centre = x[which] + lean[which] * step
    left = np.floor(centre).astype(int)
    offset = np.arange(-REACH, REACH + 1) - (centre - left)[:, None]
    profile = strength[:, None] * np.exp(-(offset**2) / (2 * thickness[which, None] ** 2))
    canvas.add(np.floor(y).astype(int)[which] + step, left - REACH, profile[:, None, :].astype(np.float32))
