"""Augmenters, and small images and masks for them."""

import numpy as np
from hypothesis import strategies as st

from steel.config import SamplingConfig, TransformConfig
from steel.loading.augment import TRANSFORMS, Augmenter

NAMES = tuple(TRANSFORMS)
SEEDS = st.integers(0, 2**64 - 1)

Named = tuple[str, TransformConfig]


def one(name: str, p: float = 0.5, strength: float = 1.0) -> Named:
    return name, TransformConfig(p, strength)


def augmenter(
    *transforms: Named,
    crop: tuple[int, int] = (24, 32),
    num_classes: int = 4,
    ignore_bit: int | None = None,
    max_black: float = 1.0,
    zoom: tuple[float, float] = (1.0, 1.0),
) -> Augmenter:
    return Augmenter(dict(transforms), crop, SamplingConfig(max_black=max_black, zoom=zoom), num_classes, ignore_bit)


def blocks(height: int, width: int, num_classes: int, seed: int, kind: type = np.uint8) -> np.ndarray:
    """A bitmask of random overlapping rectangles, one class each."""
    generator = np.random.default_rng(seed)
    bitmask = np.zeros((height, width), kind)
    for k in range(num_classes):
        top, left = int(generator.integers(0, height)), int(generator.integers(0, width))
        bitmask[top : top + 5, left : left + 7] |= kind(1 << k)
    return bitmask


def texture(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, *channels), dtype=np.uint8)
