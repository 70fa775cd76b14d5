"""Images that a set holds in overlapping tiles: where these lie, and what must hold of them.

Every tile is a sample of its own, which training reads as an image. Evaluation, folds and reports see whole images.
The samples of an image follow each other in one shard, in rows from its top left; neighbours hold the same pixels where
they overlap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steel.images.geometry import count_tiles, tile_starts
from steel.images.pixel_format import MAX_PIXELS

TILE_MARK = "%tile-"
"""Stands in the keys of tiles, and in no other: `sample_key` never makes it."""
_SHARED = ("shard", "fold", "group", "image_height", "image_width", "image_areas", "image_ignored", "sums", "squares")
"""Columns, of the index or of a finished shard, that all tiles of an image have in common."""


class TilePlace(NamedTuple):
    """A tile of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def inside(self) -> tuple[slice, slice]:
        """Its rows and columns of the image."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class TileGrid:
    """How images are cut: into tiles of one size, spread evenly; a side that is no longer than a tile stays whole."""

    height: int
    width: int
    overlap: int
    """Pixels that neighbours share at least."""

    def counts(self, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 each: rows and columns of tiles of images of these sizes."""
        return count_tiles(heights, self.height, self.overlap), count_tiles(widths, self.width, self.overlap)

    def tops_and_lefts(self, columns: Mapping[str, np.ndarray], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 each: where the tiles with these numbers start in their images.

        Args:
            columns: with (n,) `image_height` and `image_width`.
            numbers: (n,) int64, from 0 in each image, row by row.
        """
        height, width = (columns[name].astype(np.int64) for name in ("image_height", "image_width"))
        num_rows, num_columns = self.counts(height, width)
        return (
            tile_starts(numbers // num_columns, num_rows, height, np.minimum(height, self.height)),
            tile_starts(numbers % num_columns, num_columns, width, np.minimum(width, self.width)),
        )

    def places(self, height: int, width: int) -> list[TilePlace]:
        """The tiles of an image, row by row."""
        num_rows, num_columns = self.counts(np.array([height]), np.array([width]))
        numbers = np.arange(num_rows[0] * num_columns[0])
        sides = {"image_height": np.full(len(numbers), height), "image_width": np.full(len(numbers), width)}
        tops, lefts = self.tops_and_lefts(sides, numbers)
        size = min(height, self.height), min(width, self.width)
        return [TilePlace(top, left, *size) for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)]


def image_starts(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) int64: the rows at which an image begins."""
    return np.flatnonzero((columns["top"] == 0) & (columns["left"] == 0))


def tiles_fault(columns: Mapping[str, np.ndarray], grid: TileGrid) -> str | None:
    """The first sample that is no tile of its image's grid, or differs from the others of its image; None for none.

    Args:
        columns: of numbers of all samples of a set, or of a shard; what must hold of any sample was checked.
        grid: of the set.
    """
    height, width = (columns[name].astype(np.int64) for name in ("image_height", "image_width"))
    is_size = (height > 0) & (width > 0) & (height * width <= MAX_PIXELS)
    if not is_size.all():
        return f"row {int(np.argmin(is_size))}: a tile of an image of impossible size"
    starts = image_starts(columns)
    if len(height) and (not len(starts) or starts[0] != 0):
        return "row 0: not the first tile of an image"
    lengths = np.diff(starts, append=len(height))
    first = np.repeat(starts, lengths)
    num_rows, num_columns = grid.counts(height, width)
    tall, wide = np.minimum(height, grid.height), np.minimum(width, grid.width)
    tops, lefts = grid.tops_and_lefts(columns, np.arange(len(height)) - first)
    checks = [
        (f"another {name} than the image's first tile", _same(columns[name], first))
        for name in _SHARED
        if name in columns
    ]
    checks += [
        ("the image has another number of tiles", np.repeat(lengths, lengths) == num_rows * num_columns),
        ("a tile at another place than its image's grid has", (columns["top"] == tops) & (columns["left"] == lefts)),
        ("a tile of another size than its image's grid has", (columns["height"] == tall) & (columns["width"] == wide)),
        ("a reduced tile", (columns["original_height"] == tall) & (columns["original_width"] == wide)),
        ("more or fewer marked pixels than its image's tiles can hold", _areas_sound(columns, starts, lengths)),
    ]
    return next((f"row {int(np.argmin(sound))}: {what}" for what, sound in checks if not sound.all()), None)


def _same(column: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each row has what the first one of its image has."""
    equal = column == column[first]
    return equal if equal.ndim == 1 else equal.all(axis=1)


def _areas_sound(columns: Mapping[str, np.ndarray], starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n,) bool: an image has as many pixels of a class as its fullest tile at least, as all of them at most."""
    if not len(starts):
        return np.ones(0, bool)
    sound = np.ones(len(starts), bool)
    pixels = columns["image_height"][starts].astype(np.int64) * columns["image_width"][starts]
    for name in ("areas", "ignored"):
        tiles, whole = columns[name].astype(np.int64), columns[f"image_{name}"][starts].astype(np.int64)
        tiles, whole = tiles.reshape(len(tiles), -1), whole.reshape(len(whole), -1)
        most = np.minimum(np.add.reduceat(tiles, starts), pixels[:, None])
        sound &= ((np.maximum.reduceat(tiles, starts) <= whole) & (whole <= most)).all(axis=1)
    return np.repeat(sound, lengths)
