"""One synthetic image: strip, surface, harmless marks and defects put together."""

import numpy as np

from steel.synthetic.defects import add_defects
from steel.synthetic.marks import Canvas, draw_style
from steel.synthetic.masks import REAL_HEIGHT, draw_area, draw_mask
from steel.synthetic.surface import add_edges, add_harmless_marks, add_paint, draw_extent, draw_light, draw_texture

PAINT_SHARE = 0.08
"""Share of clean images with dabs of paint on them."""


def draw_masks(
    rng: np.random.Generator, class_ids: frozenset[int], height: int, width: int
) -> tuple[dict[int, np.ndarray], tuple[int, int]]:
    """Draw the masks of one image.

    Returns:
        A (height, width) uint8 mask of 0 and 1 for each class, and the columns `[first, last)` that show steel.
    """
    areas = {class_id: draw_area(rng, class_id) * height * width for class_id in sorted(class_ids)}
    room = min(width, max(2.5 * sum(areas.values()) / height, 0.15 * width))
    start = int(rng.uniform(0, width - room))
    extent = draw_extent(rng, width, keep=(start, int(start + room)))
    taken = np.zeros((height, width), np.uint8)
    masks = {}
    for class_id in sorted(areas, key=lambda k: -areas[k]):  # large ones first, while there is room
        masks[class_id] = draw_mask(rng, class_id, areas[class_id], taken, extent)
        taken |= masks[class_id]
    return masks, extent


def extent_around(rng: np.random.Generator, masks: dict[int, np.ndarray], width: int) -> tuple[int, int]:
    """Columns that show steel in an image with given masks: never fewer than the masks cover."""
    covered = (
        np.flatnonzero(np.any([mask.any(axis=0) for mask in masks.values()], axis=0))
        if masks
        else np.array([width // 2])
    )
    return draw_extent(rng, width, keep=(int(covered[0]), int(covered[-1]) + 1)) if covered.size else (0, width)


def render(
    rng: np.random.Generator, masks: dict[int, np.ndarray], extent: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """Render a strip with the given defects.

    Args:
        rng: source of all choices.
        masks: (height, width) uint8 of 0 and 1 by class id from 1; nothing for a clean image.
        extent: columns `[first, last)` that show steel.
        height: rows, in pixels.
        width: columns, in pixels.

    Returns:
        (height, width) uint8 gray levels.
    """
    light = draw_light(rng, height, width)
    texture = draw_texture(rng, height, width)
    canvas = Canvas(height, width)
    style = draw_style(rng, height / REAL_HEIGHT)
    add_harmless_marks(rng, canvas, style)
    if not masks and rng.random() < PAINT_SHARE:
        add_paint(rng, canvas)
    for class_id in sorted(masks):
        add_defects(rng, canvas, masks[class_id], class_id, style)
    # Shades multiply, so a dark place has as much grain for its brightness as a bright one.
    image = light * texture * np.maximum(1 + canvas.delta, 0.05)
    add_edges(rng, image, extent)
    return np.clip(image, 0, 255).astype(np.uint8)
