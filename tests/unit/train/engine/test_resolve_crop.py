"""The size of full-size crops: the largest training image, or a tile of it where that is beyond the budget."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from steel.config import TilingConfig
from train.engine.data import explain_crop, resolve_crop

ROWS = np.array([0, 2])


def reader_of(*sizes: tuple[int, int]) -> Any:
    heights, widths = np.array(sizes).T
    return SimpleNamespace(index=SimpleNamespace(height=heights, width=widths))


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
