"""Images of many pixels in overlapping tiles: where these lie, and how what is said of them becomes one image again.

Pure arithmetic without torch, the same for a checkpoint and for its exported graph. Along each side, tiles start at
whole strides, evenly spread, so that the network's grid lies as in the whole image. Neighbours meet in the middle of
what they share: over half of the overlap one fades into the other, and the quarter at each tile's inner edge, where the
network saw less than it would have, counts nothing. A network that reaches no further than that quarter says the same
as of the whole image.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from steel.config import TilingConfig
from steel.images.geometry import count_tiles, tile_starts


class Span(NamedTuple):
    """A tile along one side of an image, in pixels."""

    start: int
    stop: int
    own_start: int
    """From here on it is nearer than its neighbours: whole strides."""
    own_stop: int
    weights: np.ndarray
    """(stop - start,) float32; over all tiles they add up to 1 at each pixel."""


class Tile(NamedTuple):
    """A tile of an image."""

    rows: Span
    columns: Span


def is_tiled(height: int, width: int, tiling: TilingConfig, stride: int) -> bool:
    """Whether an image, padded to whole strides, goes through the network in tiles."""
    return -(-height // stride) * stride * -(-width // stride) * stride > tiling.budget


def tile_size(height: int, width: int, tiling: TilingConfig) -> tuple[int, int]:
    """Height and width of the tiles of an image: squares, or where it is narrower, longer ones of as many pixels."""
    pixels = tiling.tile**2
    if min(height, tiling.tile) <= min(width, tiling.tile):
        tall = min(height, tiling.tile)
        return tall, min(width, max(tiling.tile, pixels // tall))
    wide = min(width, tiling.tile)
    return min(height, max(tiling.tile, pixels // wide)), wide


def make_tiles(height: int, width: int, tiling: TilingConfig, stride: int) -> list[Tile]:
    """The tiles of an image, in rows across its longer side, which `Blender` relies on.

    Args:
        height: of the padded image, whole strides.
        width: likewise.
        tiling: how large tiles are and how much they share.
        stride: of the network.
    """
    tall, wide = tile_size(height, width, tiling)
    rows = make_spans(height, tall, tiling.overlap, stride)
    columns = make_spans(width, wide, tiling.overlap, stride)
    if width > height:
        return [Tile(row, column) for column in columns for row in rows]
    return [Tile(row, column) for row in rows for column in columns]


def make_spans(length: int, size: int, overlap: int, stride: int) -> list[Span]:
    """Tiles along a side of `length` pixels, which is whole strides.

    Args:
        length: of the side.
        size: of a tile, rounded up to whole strides; a stride more than the overlap at least.
        overlap: that neighbours share at least, rounded up likewise.
        stride: of the network.
    """
    size, overlap = (-(-pixels // stride) * stride for pixels in (size, overlap))
    size = min(max(size, overlap + stride), length)  # of tiles no larger than a stride, both are one: no step is left
    num = 1 if size == length else int(count_tiles(np.array(length), size, overlap))
    starts = (tile_starts(np.arange(num), np.array(num), np.array(length), np.array(size)) // stride * stride).tolist()
    seams = [(later + earlier + size) / 2 for earlier, later in pairwise(starts)]
    # Halves up: `round` takes them to even numbers, which leaves small tiles nothing of their own.
    edges = [0, *(int(seam / stride + 0.5) * stride for seam in seams), length]
    spans = []
    for i, start in enumerate(starts):
        pixels = np.arange(start, start + size) + 0.5
        # How far each seam lies behind; what lies behind the one before a tile and not the one after it, counts.
        weights = _behind(seams[i - 1], overlap, pixels) if i > 0 else np.ones(size)
        if i < num - 1:
            weights = weights - _behind(seams[i], overlap, pixels)
        spans.append(Span(start, start + size, edges[i], edges[i + 1], weights.astype(np.float32)))
    return spans


def _behind(seam: float, overlap: int, pixels: np.ndarray) -> np.ndarray:
    """From 0 before a seam to 1 after it, over half of an overlap."""
    return np.clip((pixels - seam) / (overlap / 2) + 0.5, 0, 1)


def own_cells(tile: Tile, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns that no other tile counts, of planes of `height` times `width` cells that lie over a tile."""
    rows, columns = (
        slice(*((edge - span.start) * cells // (span.stop - span.start) for edge in (span.own_start, span.own_stop)))
        for span, cells in zip(tile, (height, width), strict=True)
    )
    return rows, columns


class Blender:
    """Adds tiles up to one image of quantised probabilities; in floating point it holds one row of tiles, no more.

    Attributes:
        probs: (C, H, W) uint8, whole after `finish`.
    """

    def __init__(self, num_classes: int, height: int, width: int) -> None:
        self.probs = np.zeros((num_classes, height, width), np.uint8)
        self._is_wide = width > height
        self._probs = self._turn(self.probs)
        self._band: np.ndarray | None = None
        self._start = 0

    def add(self, tile: Tile, probs: np.ndarray) -> None:
        """Add what is said of a tile.

        Args:
            tile: of `make_tiles`, in its order.
            probs: (C, h, w) float32 in 0..1.
        """
        along, across = (tile.columns, tile.rows) if self._is_wide else (tile.rows, tile.columns)
        if self._band is None or along.start != self._start:
            self._advance(along.start, along.stop)
        assert self._band is not None
        weights = along.weights[:, None] * across.weights
        self._band[:, : along.stop - along.start, across.start : across.stop] += self._turn(probs) * weights

    def finish(self) -> np.ndarray:
        """The whole image, (C, H, W) uint8: blended first, rounded once."""
        self._advance(self._probs.shape[1], self._probs.shape[1])
        return self.probs

    def _advance(self, start: int, stop: int) -> None:
        """Round what is complete, before `start`, and go on with a row of tiles that ends at `stop`."""
        num_classes, _, across = self._probs.shape
        shape = (num_classes, across, stop - start) if self._is_wide else (num_classes, stop - start, across)
        band = self._turn(np.zeros(shape, np.float32))
        if self._band is not None:
            done = start - self._start
            rest = self._band[:, done:]
            levels, out = self._band[:, :done] * np.float32(255), self._probs[:, self._start : start]
            with np.errstate(invalid="ignore"):  # of NaN comes any number: that it is there, labels tell
                np.rint(levels, out=out, casting="unsafe")
            band[:, : rest.shape[1]] = rest
        self._band, self._start = band, start

    def _turn(self, planes: np.ndarray) -> np.ndarray:
        """Planes (C, h, w) with the image's longer side first."""
        return planes.swapaxes(1, 2) if self._is_wide else planes
