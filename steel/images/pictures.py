"""Pictures of masks: overlays in class colours and contact sheets. Without torch."""

import colorsys
import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from steel.storage import write_bytes

CLASS_COLOURS = (
    (40, 110, 255),  # 1 blue
    (200, 60, 220),  # 2 purple
    (255, 215, 0),  # 3 yellow
    (255, 55, 45),  # 4 red
    (0, 200, 170),
    (255, 140, 0),
    (120, 220, 60),
    (255, 130, 190),
)
"""RGB of classes 1 to 8; `class_colour` gives further ones."""


_BACKGROUND = (24, 26, 30)


_TEXT = (225, 228, 232)


_FILL = 0.28
"""Opacity of a predicted region's fill."""


def class_colour(class_id: int) -> tuple[int, int, int]:
    """RGB of a class, 1-based; beyond the fixed list, hues that stay apart."""
    if class_id <= len(CLASS_COLOURS):
        return CLASS_COLOURS[class_id - 1]
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1, 0.75, 1.0)  # steps of the golden ratio
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_overlay(image: np.ndarray, masks: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Draw predicted masks, and the true ones when known, in class colours.

    Args:
        image: (H, W) gray or (H, W, 3) RGB uint8.
        masks: (C, H, W) bool: the answer, drawn as outlines around a tint.
        truth: (C, H, W) bool: drawn as bare outlines on a second copy of the image above the first.

    Returns:
        (H, W, 3) uint8 RGB; with `truth` twice as high and a thin line more.
    """
    predicted = _draw_masks(image, masks, fill=True)
    if truth is None:
        return predicted
    true = draw_outlines(image, truth)
    height, width = image.shape[:2]
    line = np.full((max(2, height // 64), width, 3), _BACKGROUND, np.uint8)
    return np.concatenate([_label(true, "true"), line, _label(predicted, "predicted")])


def draw_outlines(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The image in RGB with the outlines of (C, H, W) bool masks, nothing tinted; see `draw_overlay`."""
    return _draw_masks(image, masks, fill=False)


def _draw_masks(image: np.ndarray, masks: np.ndarray, *, fill: bool) -> np.ndarray:
    assert masks.shape[1:] == image.shape[:2], f"masks {masks.shape} on an image {image.shape}"
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 128))
    for class_id, mask in enumerate(masks, start=1):
        if not mask.any():
            continue
        colour = class_colour(class_id)
        if fill:
            picture[mask] = ((1 - _FILL) * picture[mask] + _FILL * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, thickness)
    return picture


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    width: int = 1280,
) -> np.ndarray:
    """Arrange pictures under their captions.

    Args:
        images: (H, W, 3) RGB or (H, W) gray uint8, of any sizes.
        captions: one line for each; none when None.
        columns: pictures side by side; as many as suit their shape when None.
        width: of the sheet, in pixels.

    Returns:
        (h, width, 3) uint8 RGB.
    """
    assert images, "a contact sheet of nothing"
    assert captions is None or len(captions) == len(images)
    if columns is None:
        aspect = float(np.median([image.shape[1] / image.shape[0] for image in images]))
        columns = min(len(images), max(1, round(4 / aspect)))
    gap = 6
    cell = (width - gap * (columns + 1)) // columns
    tiles = [
        _tile(image, captions[number] if captions is not None else None, cell) for number, image in enumerate(images)
    ]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    sheet = np.full((sum(heights) + gap * (len(rows) + 1), width, 3), _BACKGROUND, np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = gap + column * (cell + gap)
            sheet[top : top + tile.shape[0], left : left + cell] = tile
        top += height + gap
    return sheet


def save_contact_sheet(
    path: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
) -> None:
    """Write `contact_sheet` as a PNG or JPEG, by the path's ending; at once and whole."""
    write_bytes(path, encode_picture(contact_sheet(images, captions, columns=columns), os.path.splitext(path)[1]))


def encode_picture(picture: np.ndarray, extension: str = ".png", *, quality: int = 95) -> bytes:
    """(H, W, 3) uint8 RGB or (H, W) gray as a file's bytes; JPEG files with a quality up to 100."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if extension in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(extension, pixels, options)
    assert done, f"OpenCV writes no {extension} files"
    return bytes(data)


def _tile(image: np.ndarray, caption: str | None, width: int) -> np.ndarray:
    """A picture scaled to `width`, in RGB, under a line of text."""
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shrinks = width < picture.shape[1]
    scaled = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if caption is None:
        return scaled
    header = Image.new("RGB", (width, 24), _BACKGROUND)
    ImageDraw.Draw(header).text((3, 3), caption, fill=_TEXT, font=ImageFont.load_default(15))
    return np.concatenate([np.asarray(header), scaled])


def _label(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a word in its upper left corner."""
    size = max(8, picture.shape[0] // 14)
    canvas = Image.fromarray(picture)
    ImageDraw.Draw(canvas).text(
        (size // 3, size // 4), text, fill="white", stroke_width=max(1, size // 10), stroke_fill="black",
        font=ImageFont.load_default(size),
    )  # fmt: skip
    return np.asarray(canvas)


def hex_colour(class_id: int) -> str:
    """`class_colour` for plots and pages."""
    return "#{:02x}{:02x}{:02x}".format(*class_colour(class_id))
