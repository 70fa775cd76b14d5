"""Short texts in a picture, each on the colour of its class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from steel.images.class_colours import class_colour, luminance
from steel.images.fonts import load_font

MOST_TAGS = 8
"""Tags that are drawn in a picture ..."""
_MOST_COVERED = 1 / 8
"""... and the share of it that they cover, the first tag aside: more would hide what they name."""
_FARTHEST = 2
"""How far above or below its place a tag may stand, in its own heights: farther, nobody knows what it names."""


class Tag(NamedTuple):
    """A text and its place."""

    left: int
    top: int
    """The corner of what it names; the text stands above it, or in it where there is no room."""
    text: str
    class_id: int
    """From 1."""

    def scaled(self, scale: float) -> "Tag":
        """The same in a picture that is so many times as large."""
        return self._replace(left=round(self.left * scale), top=round(self.top * scale))


def draw_tags(picture: np.ndarray, tags: Sequence[Tag], size: int | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB with the first few tags, none of which leaves it or covers another: those that have
    no room near their place are left out. Their letters have a size in pixels, by default `tag_size` of the picture."""
    if not tags:
        return picture
    height, width = picture.shape[:2]
    font = load_font(size or tag_size(height, width), "".join(tag.text for tag in tags))
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    taken: list[_Box] = []
    room = _MOST_COVERED * height * width
    for tag in tags:
        left, top, right, bottom = draw.textbbox((0, 0), tag.text, font=font)
        text_width, text_height = right - left + 4, bottom - top + 4
        x = max(0, min(tag.left, round(width - text_width)))
        y = tag.top - text_height if tag.top >= text_height else max(0, min(tag.top, round(height - text_height)))
        room -= text_width * text_height
        if len(taken) == MOST_TAGS or (taken and room < 0):
            break
        place = _free_place(_Box(x, y, x + text_width, y + text_height), taken, height)
        if place is None:
            room += text_width * text_height
            continue
        taken.append(place)
        x, y = place.left, place.top
        colour = class_colour(tag.class_id)
        draw.rectangle((x, y, x + text_width - 1, y + text_height - 1), fill=colour)
        draw.text((x + 2 - left, y + 2 - top), tag.text, fill=ink_on(colour), font=font)
    return np.asarray(canvas)


def tag_size(height: int, width: int) -> int:
    """Of the letters in a picture of that size, in pixels."""
    wanted = max(min(24, height // 20, width // 20), width // 80)
    return max(10, min(wanted, height // 3))


def ink_on(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever has the higher contrast on an RGB colour, which is then at least 4.5 (WCAG 2.1)."""
    return "black" if (luminance(colour) + 0.05) ** 2 > 0.05 * 1.05 else "white"


class _Box(NamedTuple):
    """What a tag covers, its right and bottom edge left out."""

    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: "_Box") -> bool:
        """Whether they share a pixel."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def _free_place(wanted: _Box, taken: list[_Box], height: int) -> _Box | None:
    """The place nearest to `wanted`, up or down, that no tag has taken; None where that is too far away."""
    tall = wanted.bottom - wanted.top
    tops = [wanted.top, *(box.top - tall for box in taken), *(box.bottom for box in taken)]
    places = [wanted._replace(top=top, bottom=top + tall) for top in tops if 0 <= top <= height - tall]
    near = [place for place in places if abs(place.top - wanted.top) <= _FARTHEST * tall]
    free = [place for place in near if not any(place.touches(box) for box in taken)]
    return min(free, key=lambda place: abs(place.top - wanted.top), default=None)
