"""Pictures of any sizes under their captions, in rows that fill the sheet. Without torch."""

import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from steel.images.class_colours import class_colour
from steel.images.pictures import encode_picture
from steel.images.tags import load_font
from steel.storage import write_bytes

WIDTH = 1280
_GAP = 6
_HIGHEST = 1 / 3
"""Of a picture, as a share of the sheet's width."""
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
    for row, height in rows_of([image.shape[1] / image.shape[0] for image in images], width):
        texts = [captions[i] for i in row] if captions is not None else None
        parts.append(_draw_row([images[i] for i in row], texts, height, width))
    bar = np.full((_GAP, width, 3), _BACKGROUND, np.uint8)
    return np.concatenate([bar, *(piece for part in parts for piece in (part, bar))])


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


def rows_of(aspects: Sequence[float], width: int) -> list[tuple[list[int], float]]:
    """Pictures in rows, in their order.

    Args:
        aspects: width by height of each.
        width: of the sheet.

    Returns:
        The pictures of each row, and their height: as many as make the row fill the sheet and no higher than a third
        of its width. The last row is as high as the one before where it would be higher.
    """
    highest = width * _HIGHEST
    rows: list[tuple[list[int], float]] = []
    row: list[int] = []
    for i in range(len(aspects)):
        row.append(i)
        height = (width - _GAP * (len(row) + 1)) / sum(aspects[j] for j in row)
        if height <= highest:
            rows.append((row, height))
            row = []
    if row:
        rows.append((row, rows[-1][1] if rows else highest))
    return rows


def _draw_row(images: Sequence[np.ndarray], captions: Sequence[str] | None, height: float, width: int) -> np.ndarray:
    """(h, width, 3): pictures of one height side by side under their captions."""
    rights = np.cumsum([_GAP + height * image.shape[1] / image.shape[0] for image in images])
    lefts = [_GAP, *(round(right) + _GAP for right in rights[:-1])]
    widths = [max(1, round(right) - left) for left, right in zip(lefts, rights, strict=True)]
    lines = [] if captions is None else [wrap(text, w) for text, w in zip(captions, widths, strict=True)]
    top = _LINE_HEIGHT * max(map(len, lines), default=0) + 4 * bool(lines)
    tall = max(1, round(height))
    canvas = Image.new("RGB", (width, top + tall), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate(images):
        canvas.paste(Image.fromarray(_scaled(image, widths[i], tall)), (lefts[i], top))
        for number, line in enumerate(lines[i] if lines else ()):
            draw.text((lefts[i] + 3, 3 + number * _LINE_HEIGHT), line, fill=_TEXT, font=load_font(_FONT))
    return np.asarray(canvas)


def _scaled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def wrap(text: str, width: int) -> list[str]:
    """The whole of a text in lines of at most `width` pixels, broken at spaces; a word that is longer at what joins its
    parts, or anywhere."""
    font = load_font(_FONT)
    lines, line = [], ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width - 6:
            lines.append(line)
            line = ""
        line = f"{line} {word}".lstrip()
        while font.getlength(line) > width - 6 and len(line) > 1:
            fits = next((n for n in range(len(line) - 1, 1, -1) if font.getlength(line[:n]) <= width - 6), 1)
            fits = 1 + max(line.rfind(joint, 0, fits) for joint in "_-/") or fits
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line] if line else lines


def _legend(class_names: Sequence[str], width: int) -> np.ndarray:
    """(h, width, 3): a square of each class's colour, and its name, in as many lines as it takes."""
    font, square = load_font(_FONT), 14
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
