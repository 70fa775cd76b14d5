"""The pictures of the report's gallery: an image, and what is laid over it, each as small as it can be."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import cv2
import numpy as np
from PIL import Image

from steel.images.bitmask import unpack_masks
from steel.images.class_colours import class_colour
from steel.images.geometry import resize_bitmask, resize_image
from steel.images.pictures import draw_comparison, encode_picture, line_thickness
from steel.images.tags import Tag
from steel.inference.region_tags import mark_regions, tags_of
from steel.reports.gallery import Layers, drawn_size
from steel.shards.reader import ShardReader

PAGE_BYTES = 20_000_000
"""All pictures of a page together, before they are written as text (which takes a third more)."""
_JPEG_QUALITY = 80
_FILL_ALPHA, _LINE_ALPHA = 110, 255
_PROBABILITY_STEPS = 32


@dataclass(frozen=True)
class Shot:
    """One image's pictures as files' bytes, all of one size."""

    row: int
    size: tuple[int, int]
    """Height and width."""
    image: bytes
    """JPEG."""
    truth: bytes
    """PNG: outlines on nothing."""
    prediction: bytes
    """PNG: a tint on nothing."""
    probability: bytes
    """PNG: the more, the brighter and the less transparent."""
    overlay: bytes
    """JPEG: the truth above the prediction, to be opened by itself."""
    tags: Sequence[Tag]
    """Names and scores of predicted regions, in pixels of `size`."""
    true_tags: Sequence[Tag]
    """Names of true regions."""

    @property
    def bytes_in_page(self) -> int:
        """Of the pictures that a page shows."""
        return sum(map(len, (self.image, self.truth, self.prediction, self.probability)))


def draw_shots(reader: ShardReader, layers: Mapping[int, Layers], kinds: Sequence[Sequence[int]]) -> list[Shot]:
    """The pictures of the rows of each kind, kind by kind.

    Where a page has no room for all of them, the last of each kind are left out: the first of all kinds are drawn
    before the second.
    """
    shots: dict[int, Shot] = {}
    room = PAGE_BYTES
    for row in dict.fromkeys(row for rank in zip_longest(*kinds) for row in rank if row is not None):
        shot = _draw(reader, row, layers[row])
        room -= shot.bytes_in_page
        if room < 0:
            break
        shots[row] = shot
    return [shots[row] for row in dict.fromkeys(chain(*kinds)) if row in shots]


def _draw(reader: ShardReader, row: int, layers: Layers) -> Shot:
    names = reader.manifest.class_names
    sample = reader.read(row, original_mask=True)
    size = drawn_size(sample.bitmask.shape)
    image = resize_image(sample.image, size)
    truth = unpack_masks(resize_bitmask(sample.bitmask, size), len(names))
    predicted = unpack_masks(layers.predicted, len(names))
    tags = tags_of(layers.marks, names, size[0] / sample.bitmask.shape[0])
    true_tags = tags_of(mark_regions(truth), names)
    return Shot(
        row,
        size,
        _jpeg(image),
        _mask_layer(truth, outline=True),
        _mask_layer(predicted, outline=False),
        _probability_layer(layers.probability),
        _jpeg(draw_comparison(image, predicted, truth, tags=tags, true_tags=true_tags)),
        tags,
        true_tags,
    )


def _jpeg(picture: np.ndarray) -> bytes:
    return encode_picture(picture, ".jpg", quality=_JPEG_QUALITY)


def _mask_layer(masks: np.ndarray, *, outline: bool) -> bytes:
    """(C, H, W) bool in class colours; where classes overlap, the last one shows."""
    codes = np.zeros(masks.shape[1:], np.uint8)
    thickness = line_thickness(codes.shape, 400)
    for class_id, mask in enumerate(masks, start=1):
        if not mask.any():
            continue
        if outline:
            lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(codes, lines, -1, class_id, thickness)
        else:
            codes[mask] = class_id
    alpha = _LINE_ALPHA if outline else _FILL_ALPHA
    palette = [(0, 0, 0, 0), *((*class_colour(1 + k), alpha) for k in range(len(masks)))]
    return _palette_png(codes, palette)


def _probability_layer(probability: np.ndarray) -> bytes:
    levels = (probability.astype(np.uint16) * _PROBABILITY_STEPS // 256).astype(np.uint8)
    ramp = (np.arange(_PROBABILITY_STEPS) * 255 // (_PROBABILITY_STEPS - 1)).astype(np.uint8)
    colours = cv2.applyColorMap(ramp[None], cv2.COLORMAP_INFERNO)[0, :, ::-1]
    alphas = np.minimum(230, ramp.astype(int) * 3 // 2)
    return _palette_png(levels, [(*map(int, c), int(a)) for c, a in zip(colours, alphas, strict=True)])


def _palette_png(codes: np.ndarray, palette: Sequence[tuple[int, ...]]) -> bytes:
    """(H, W) uint8 codes as a PNG whose palette has RGB and alpha of each."""
    picture = Image.fromarray(codes, "P")
    picture.putpalette([value for colour in palette for value in colour[:3]])
    file = io.BytesIO()
    picture.save(file, "png", transparency=bytes(colour[3] for colour in palette))
    return file.getvalue()
