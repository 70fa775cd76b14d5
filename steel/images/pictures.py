"""Pictures of masks: overlays in class colours. Without torch."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from steel.images.class_colours import class_colour
from steel.images.fonts import load_font
from steel.images.tags import Tag, draw_tags

_LINE = (24, 26, 30)
"""Colour of what is between truth and prediction ..."""
_WORD = (225, 228, 232)
"""... and of the words above them."""
_FILL = 0.28
"""Opacity of a predicted region's fill."""
_LEAST_WIDTH = 320
"""Of truth above prediction: smaller images are enlarged, so that there is room for words ..."""
_MOST_HEIGHT = 16_000
"""... up to this height."""
_JPEG_SIDE = 65_500
"""A JPEG file's side has at most so many pixels."""


def draw_overlay(image: np.ndarray, masks: np.ndarray, tags: Sequence[Tag] = ()) -> np.ndarray:
    """Draw predicted masks in class colours, as outlines around a tint.

    Args:
        image: (H, W) gray or (H, W, 3) RGB uint8.
        masks: (C, H, W) bool.
        tags: names beside regions.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return draw_tags(_draw_masks(image, masks, fill=True), tags)


def draw_comparison(
    image: np.ndarray,
    masks: np.ndarray,
    truth: np.ndarray,
    *,
    tags: Sequence[Tag] = (),
    true_tags: Sequence[Tag] = (),
) -> np.ndarray:
    """Draw the truth, as bare outlines, above the prediction, as in `draw_overlay`.

    Args:
        image: (H, W) gray or (H, W, 3) RGB uint8.
        masks: (C, H, W) bool, the prediction.
        truth: (C, H, W) bool.
        tags: names beside predicted regions.
        true_tags: names beside true ones.

    Returns:
        (2 * H, a line of words above each and a thin line, W, 3) uint8 RGB; several times as large where the image is
        narrow.
    """
    factor = min(-(-_LEAST_WIDTH // image.shape[1]), max(1, _MOST_HEIGHT // image.shape[0]))
    large, predicted_masks, true_masks = (_enlarge(plane, factor) for plane in (image, masks, truth))
    height, width = large.shape[:2]
    line = np.full((max(2, height // 64), width, 3), _LINE, np.uint8)
    true = draw_tags(draw_outlines(large, true_masks), [tag.scaled(factor) for tag in true_tags])
    predicted = draw_overlay(large, predicted_masks, [tag.scaled(factor) for tag in tags])
    words = [_word(text, height, width) for text in ("true", "predicted")]
    return np.concatenate([words[0], true, line, words[1], predicted])


def _enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """Each pixel of (H, W), (H, W, 3) or (C, H, W) bool as `factor` x `factor` of them."""
    rows = 1 if picture.dtype == bool else 0
    return picture.repeat(factor, axis=rows).repeat(factor, axis=rows + 1) if factor > 1 else picture


def draw_outlines(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The image in RGB with the outlines of (C, H, W) bool masks, nothing tinted."""
    return _draw_masks(image, masks, fill=False)


def _draw_masks(image: np.ndarray, masks: np.ndarray, *, fill: bool) -> np.ndarray:
    assert masks.shape[1:] == image.shape[:2], f"masks {masks.shape} on an image {image.shape}"
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    thickness = line_thickness(image.shape, 500)
    for class_id, mask in enumerate(masks, start=1):
        if not mask.any():
            continue
        colour = class_colour(class_id)
        if fill:  # by a table and a channel at a time: an image may have as many pixels as memory holds twice
            for channel, level in enumerate(colour):
                table = ((1 - _FILL) * np.arange(256) + _FILL * level).astype(np.uint8)
                plane = np.ascontiguousarray(picture[:, :, channel])
                np.copyto(picture[:, :, channel], cv2.LUT(plane, table), where=mask)
        outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, thickness)
    return picture


def line_thickness(shape: Sequence[int], parts: int) -> int:
    """Of outlines, in pixels: one of so many parts of the longer side, so that it is seen where the picture is made to
    fit a page, and no bar across the shorter one."""
    return max(1, min(round(max(shape[:2]) / parts), min(shape[:2]) // 32))


def encode_picture(picture: np.ndarray, extension: str = ".png", *, quality: int = 95) -> bytes:
    """(H, W, 3) uint8 RGB or (H, W) gray as a file's bytes; JPEG files with a quality up to 100, and smaller where a
    side is longer than JPEG has it."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    is_jpeg = extension in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if is_jpeg else []
    if is_jpeg and max(pixels.shape[:2]) > _JPEG_SIDE:
        scale = _JPEG_SIDE / max(pixels.shape[:2])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(extension, pixels, options)
    assert done, f"OpenCV writes no {extension} files"
    return bytes(data)


def _word(text: str, height: int, width: int) -> np.ndarray:
    """(h, width, 3): a word on a strip of its own, above a picture of that size, of which it hides nothing."""
    size = max(8, min(max(12, height // 14), width // 12))
    canvas = Image.new("RGB", (width, round(1.5 * size)), _LINE)
    ImageDraw.Draw(canvas).text((size // 3, size // 8), text, fill=_WORD, font=load_font(size))
    return np.asarray(canvas)
