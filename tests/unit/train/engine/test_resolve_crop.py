"""The size of full-size crops: the largest training image, or a tile of it where that is beyond the budget."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steel.config import TilingConfig
from steel.errors import InputError
from steel.shards.tiles import TileGrid
from train.engine.data import explain_crop, resolve_crop

ROWS = np.array([0, 2])


def reader_of(*sizes: tuple[int, int]) -> Any:
    """Of images of these sizes, each a sample."""
    heights, widths = np.array(sizes).T
    index = SimpleNamespace(height=heights, width=widths, samples=lambda rows: rows)
    return SimpleNamespace(index=index, samples=index, manifest=SimpleNamespace(tile=None))


def tiled_reader() -> Any:
    """Of images of 40x300, 100x100 and 30x64 in tiles of 64x64: five, four and one."""
    samples = np.repeat(np.arange(3), (5, 4, 1))
    index = SimpleNamespace(
        height=np.array([40, 100, 30]),
        width=np.array([300, 100, 64]),
        samples=lambda rows: np.flatnonzero(np.isin(samples, rows)),
    )
    sizes = SimpleNamespace(height=np.array([40] * 5 + [64] * 4 + [30]), width=np.full(10, 64))
    return SimpleNamespace(index=index, samples=sizes, manifest=SimpleNamespace(tile=TileGrid(64, 64, 16)))


def test_full_size_is_that_of_the_largest_training_image() -> None:
    reader, tiling = reader_of((200, 1500), (9000, 9000), (256, 1400)), TilingConfig()
    assert resolve_crop(reader, ROWS, (0, 0), tiling) == (256, 1500)
    assert explain_crop(reader, ROWS, (0, 0), tiling) is None


def test_full_size_is_a_tile_beyond_the_budget() -> None:
    tiling = TilingConfig(budget=300_000, tile=512, overlap=128)
    reader = reader_of((200, 1500), (9000, 9000), (256, 1400))
    assert resolve_crop(reader, ROWS, (0, 0), tiling) == (256, 1024)
    told = explain_crop(reader, ROWS, (0, 0), tiling)
    assert told is not None
    assert "images of up to 256x1500 are more than the 300,000 pixels of --tiling.budget" in told
    assert "takes 256x1024 of them" in told
    assert resolve_crop(reader, ROWS, (64, 4096), tiling) == (64, 4096)  # what is asked for by numbers is given
    assert explain_crop(reader, ROWS, (64, 4096), tiling) is None


def test_full_size_of_images_in_tiles_is_that_of_the_largest_tile() -> None:
    assert resolve_crop(tiled_reader(), ROWS, (0, 0), TilingConfig()) == (40, 64)
    told = explain_crop(tiled_reader(), ROWS, (0, 0), TilingConfig())
    assert told == "the shards store large images in tiles: crop (0, 0) takes whole tiles of up to 40x64"


def test_a_crop_larger_than_the_tiles_of_larger_images_is_refused() -> None:
    reader, tiling = tiled_reader(), TilingConfig()
    for crop in ((40, 65), (32, 300)):
        with pytest.raises(InputError, match="images of up to 40x300 in tiles of 40x64; give a crop"):
            resolve_crop(reader, ROWS, crop, tiling)
    # A side that is larger than all images is mirrored beyond them, as anywhere.
    assert resolve_crop(reader, ROWS, (64, 64), tiling) == (64, 64)
    assert resolve_crop(reader, np.array([2]), (96, 96), tiling) == (96, 96)
