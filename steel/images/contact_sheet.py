"""Pictures of any sizes under their captions, in rows that fill the sheet. Without torch."""

import os
from bisect import bisect_right
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from steel.images.class_colours import class_colour
from steel.images.fonts import load_font
from steel.images.pictures import encode_picture
from steel.storage import write_bytes

WIDTH = 1280
_GAP = 6
_HIGHEST = 1 / 3
"""Of a picture, as a share of the sheet's width."""
_LEAST_WIDTH = 0.12
"""Of a caption, as a share of the sheet's width."""
_LONGEST = 40.0
"""Width by height of the place of a picture: one that is longer is stretched."""
_SPARE = 2
"""Pixels that a picture made for a sheet keeps for each one that the sheet shows, along either side: shrunk once more,
it stays sharp ..."""
_LEAST_SIDE = 64
"""... and has no shorter side than this, as very long ones are stretched."""
_BACKGROUND, _TEXT = (24, 26, 30), (225, 228, 232)
_FONT, _LINE_HEIGHT = 15, 20


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    class_names: Sequence[str] = (),
    width: int = WIDTH,
) -> np.ndarray:
    """Arrange pictures, each row scaled to one height and as wide as the sheet.

    Args:
        images: (H, W, 3) RGB or (H, W) gray uint8, of any sizes.
        captions: one for each, wrapped to its picture's width; none when None.
        class_names: a legend of their colours stands on top; none without.
        width: of the sheet, in pixels.

    Returns:
        (h, width, 3) uint8 RGB.
    """
    assert images, "a contact sheet of nothing"
    assert captions is None or len(captions) == len(images)
    parts = [_legend(class_names, width)] if class_names else []
    least = width * _LEAST_WIDTH if captions is not None else 0.0
    aspects = [min(_LONGEST, max(least / (width * _HIGHEST), image.shape[1] / image.shape[0])) for image in images]
    for row, height in rows_of(aspects, width, least):
        texts = [captions[i] for i in row] if captions is not None else None
        widths = [height * aspects[i] for i in row]
        parts.append(_draw_row([images[i] for i in row], texts, widths, height, width))
    bar = np.full((_GAP, width, 3), _BACKGROUND, np.uint8)
    return np.concatenate([bar, *(piece for part in parts for piece in (part, bar))])


def shrink_for_sheet(image: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """A picture (H, W, 3) or (H, W) uint8 no larger than a sheet so wide needs it; the same one where it is small."""
    height, wide = image.shape[:2]
    fits = min(_SPARE * width / wide, _SPARE * width * _HIGHEST / height)
    scale = max(fits, _LEAST_SIDE / min(height, wide))
    if scale >= 1:
        return image
    size = (round(scale * wide), round(scale * height))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def save_contact_sheet(
    path: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    class_names: Sequence[str] = (),
) -> None:
    """Write `contact_sheet` as a PNG or JPEG, by the path's ending; at once and whole."""
    sheet = contact_sheet(images, captions, class_names=class_names)
    write_bytes(path, encode_picture(sheet, os.path.splitext(path)[1]))


def rows_of(aspects: Sequence[float], width: int, least_width: float = 0.0) -> list[tuple[list[int], float]]:
    """Pictures in rows, in their order.

    Args:
        aspects: width by height of each.
        width: of the sheet.
        least_width: of a picture: one that would make another of its row narrower begins the next row, or is made so.

    Returns:
        The pictures of each row, and their height: as many as make the row fill the sheet and no higher than a third
        of its width. The last row is as high as the one before where it would be higher.
    """
    highest = width * _HIGHEST
    rows: list[tuple[list[int], float]] = []
    row: list[int] = []
    for i in range(len(aspects)):
        if row and _fill([*row, i], aspects, width) * min(aspects[j] for j in (*row, i)) < least_width:
            rows.append((row, highest))
            row = []
        row.append(i)
        height = _fill(row, aspects, width)
        if height <= highest:
            rows.append((row, height))
            row = []
    if row:
        before = rows[-1][1] if rows else highest
        rows.append((row, before if before * min(aspects[i] for i in row) >= least_width else highest))
    return rows


def _fill(row: Sequence[int], aspects: Sequence[float], width: int) -> float:
    """The height at which the pictures of a row are as wide as the sheet."""
    return (width - _GAP * (len(row) + 1)) / sum(aspects[i] for i in row)


def _draw_row(
    images: Sequence[np.ndarray], captions: Sequence[str] | None, places: Sequence[float], height: float, width: int
) -> np.ndarray:
    """(h, width, 3): pictures of one height side by side under their captions, each in a place so many pixels wide."""
    rights = np.cumsum([_GAP + place for place in places])
    lefts = [_GAP, *(round(right) + _GAP for right in rights[:-1])]
    widths = [max(1, round(right) - left) for left, right in zip(lefts, rights, strict=True)]
    lines = [] if captions is None else [wrap(text, w) for text, w in zip(captions, widths, strict=True)]
    font = load_font(_FONT, "".join(captions or ()))
    top = _LINE_HEIGHT * max(map(len, lines), default=0) + 4 * bool(lines)
    tall = max(1, round(height))
    canvas = Image.new("RGB", (width, top + tall), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate(images):
        wide = min(widths[i], max(1, round(height * image.shape[1] / image.shape[0])))
        canvas.paste(Image.fromarray(_scaled(image, wide, tall)), (lefts[i], top))
        for number, line in enumerate(lines[i] if lines else ()):
            draw.text((lefts[i] + 3, 3 + number * _LINE_HEIGHT), line, fill=_TEXT, font=font)
    return np.asarray(canvas)


def _scaled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def wrap(text: str, width: int) -> list[str]:
    """The whole of a text in lines of at most `width` pixels, broken at spaces; a word that is longer at what joins its
    parts, or anywhere."""
    font = load_font(_FONT, text)
    lines, line = [], ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width - 6:
            lines.append(line)
            line = ""
        line = f"{line} {word}".lstrip()
        while font.getlength(line) > width - 6 and len(line) > 1:
            # No more letters than pixels are looked at: measured again for every line, a long rest costs its square.
            numbers = range(2, min(len(line), max(2, width)))
            fits = 1 + bisect_right(numbers, width - 6, key=lambda n: font.getlength(line[:n]))
            fits = 1 + max(line.rfind(joint, 0, fits) for joint in "_-/") or fits
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line] if line else lines


def _legend(class_names: Sequence[str], width: int) -> np.ndarray:
    """(h, width, 3): a square of each class's colour, and its name, in as many lines as it takes."""
    font, square = load_font(_FONT, "".join(class_names)), 14
    places, x, y = [], _GAP, 0
    for name in class_names:
        needs = square + 6 + round(font.getlength(name)) + 16
        if x > _GAP and x + needs > width:
            x, y = _GAP, y + _LINE_HEIGHT
        places.append((x, y))
        x += needs
    canvas = Image.new("RGB", (width, y + _LINE_HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for class_id, (name, (x, y)) in enumerate(zip(class_names, places, strict=True), start=1):
        draw.rectangle((x, y + 3, x + square - 1, y + 2 + square), fill=class_colour(class_id))
        draw.text((x + square + 6, y + 1), name, fill=_TEXT, font=font)
    return np.asarray(canvas)
