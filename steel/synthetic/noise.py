"""Smooth random fields, the raw material of synthetic steel."""

import math

import cv2
import numpy as np


def white_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) float32 independent standard normal values."""
    return rng.standard_normal((height, width), dtype=np.float32)


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell_height: float, cell_width: float
) -> np.ndarray:
    """A random field with mean near 0 and deviation near 1 that varies over about `cell_height` x `cell_width` pixels.

    Cells taller than wide give vertical streaks, the reverse horizontal ripples.

    Returns:
        (height, width) float32.
    """
    cell_height, cell_width = max(1.0, cell_height), max(1.0, cell_width)
    rows, columns = math.ceil(height / cell_height) + 3, math.ceil(width / cell_width) + 3
    coarse = white_noise(rng, rows, columns)
    # The grid's phase is random, or every image would have its blobs at the same places.
    shift_y, shift_x = rng.random(2)
    transform = np.array(
        [[1 / cell_width, 0, 0.5 + shift_x], [0, 1 / cell_height, 0.5 + shift_y]],
        np.float32,
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    field = cv2.warpAffine(coarse, transform, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return field * np.float32(1.5)  # linear interpolation takes a third of the deviation away


def smooth_curve(rng: np.random.Generator, length: int, cell: float) -> np.ndarray:
    """(length,) float32: `smooth_noise` in one dimension, rounder."""
    knots = rng.standard_normal(math.ceil(length / max(1.0, cell)) + 4).astype(np.float32)
    position = np.arange(length, dtype=np.float32) / np.float32(max(1.0, cell)) + np.float32(1 + rng.random())
    base = position.astype(int)
    t = position - base
    a, b, c, d = knots[base - 1], knots[base], knots[base + 1], knots[base + 2]
    cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3  # Catmull-Rom
    return np.asarray(0.5 * cubic, np.float32) * np.float32(1.15)


def soft_step(field: np.ndarray, threshold: float, width: float) -> np.ndarray:
    """0 well below `threshold`, 1 well above, a ramp `width` wide between; same shape and dtype as `field`."""
    return np.clip((field - np.float32(threshold)) / np.float32(width) + np.float32(0.5), 0, 1)
