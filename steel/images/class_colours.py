"""A colour for each class, the same in every picture, page and plot."""

import colorsys
from collections.abc import Sequence

CLASS_COLOURS = (
    (32, 95, 255),  # 1 blue
    (178, 78, 145),  # 2 purple
    (255, 229, 0),  # 3 yellow
    (213, 24, 10),  # 4 red
    (20, 160, 102),  # 5 green
    (255, 170, 86),  # 6 orange
    (208, 255, 175),  # 7 light green
    (130, 228, 248),  # 8 light blue
)
"""RGB of classes 1 to 8; `class_colour` gives further ones. The colour-blind tell them apart, too, partly by their
lightness: found by a search for the largest least distance in CIELAB between any two, seen with and without each kind
of colour blindness (tests/unit/images/test_class_colours.py)."""

LINE_CONTRAST = 3.0
"""Of lines on their ground: what WCAG 2.1 asks of graphics."""


def class_colour(class_id: int) -> tuple[int, int, int]:
    """RGB of a class, 1-based; beyond the fixed list, hues that stay apart."""
    if class_id <= len(CLASS_COLOURS):
        return CLASS_COLOURS[class_id - 1]
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1, 0.75, 1.0)  # steps of the golden ratio
    return round(255 * red), round(255 * green), round(255 * blue)


def hex_colour(class_id: int) -> str:
    """`class_colour` for pages."""
    return _hex(class_colour(class_id))


def line_colour(class_id: int) -> str:
    """`class_colour` for lines on white: darkened where need be, to a contrast of at least `LINE_CONTRAST` (WCAG 2.1),
    which leaves it its hue."""
    colour: tuple[int, ...] = class_colour(class_id)
    while 1.05 / (luminance(colour) + 0.05) < LINE_CONTRAST:
        colour = tuple(int(0.98 * channel) for channel in colour)
    return _hex(colour)


def luminance(colour: Sequence[int]) -> float:
    """The relative luminance of an RGB colour, from 0 for black to 1 for white (WCAG 2.1)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hex(colour: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
