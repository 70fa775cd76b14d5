"""Where tiles lie, what each counts, and that tiles cut from a picture become the picture again."""

from itertools import pairwise

import numpy as np
import pytest

from steel.config import TilingConfig
from steel.errors import InputError
from steel.inference.tiles import Blender, is_tiled, make_spans, make_tiles, tile_size


def test_spans_by_hand() -> None:
    """Two tiles of 8 share 4 pixels, 4 to 7, around a seam at 6: the outer pixel of each counts nothing there."""
    first, second = make_spans(12, size=8, overlap=4, stride=2)
    assert (first.start, first.stop, first.own_start, first.own_stop) == (0, 8, 0, 6)
    assert (second.start, second.stop, second.own_start, second.own_stop) == (4, 12, 6, 12)
    assert first.weights.tolist() == [1, 1, 1, 1, 1, 0.75, 0.25, 0]
    assert second.weights.tolist() == [0, 0.25, 0.75, 1, 1, 1, 1, 1]
    (whole,) = make_spans(8, size=20, overlap=4, stride=2)
    assert (whole.start, whole.stop, whole.own_start, whole.own_stop) == (0, 8, 0, 8)
    assert whole.weights.tolist() == [1] * 8


@pytest.mark.parametrize("stride", [4, 32])
@pytest.mark.parametrize(("size", "overlap"), [(2, 1), (16, 8), (32, 16), (64, 32), (96, 48), (100, 30), (1024, 256)])
def test_tiles_cover_a_side_and_add_up_to_one(size: int, overlap: int, stride: int) -> None:
    whole = -(-overlap // stride) * stride
    for length in range(stride, 3000, 17 * stride):
        spans = make_spans(length, size, overlap, stride)
        total, owners = np.zeros(length), np.zeros(length, int)
        for span in spans:
            assert (span.start % stride, span.stop % stride, span.own_start % stride) == (0, 0, 0)
            assert span.own_start < span.own_stop
            assert span.weights.dtype == np.float32
            assert span.weights.min() >= 0
            total[span.start : span.stop] += span.weights
            owners[span.own_start : span.own_stop] += 1
        assert np.abs(total - 1).max() < 1e-6
        assert (owners == 1).all()
        for earlier, later in pairwise(spans):
            assert earlier.stop - later.start >= whole
            assert not earlier.weights[-(whole // 4) :].any()
            assert not later.weights[: whole // 4].any()


def test_a_side_of_a_million_pixels_takes_little_memory() -> None:
    spans = make_spans(1 << 20, size=1024, overlap=256, stride=32)
    assert sum(span.weights.nbytes for span in spans) == len(spans) * 4096


def test_tiles_of_narrow_images_are_longer() -> None:
    tiling = TilingConfig(budget=1 << 21, tile=1024, overlap=256)
    assert tile_size(5000, 5000, tiling) == (1024, 1024)
    assert tile_size(256, 10000, tiling) == (256, 4096)
    assert tile_size(10000, 256, tiling) == (4096, 256)
    assert tile_size(512, 1500, tiling) == (512, 1500)


def test_the_budget_is_of_padded_pixels() -> None:
    tiling = TilingConfig(budget=64 * 96, tile=64, overlap=32)
    assert not is_tiled(64, 96, tiling, 32)
    assert not is_tiled(33, 65, tiling, 32)
    assert is_tiled(65, 65, tiling, 32)
    for wrong in ({"budget": 0}, {"overlap": 0}, {"tile": 500, "overlap": 251}):
        with pytest.raises(InputError, match=r"tiling\."):
            TilingConfig(**wrong)


def test_tiles_no_larger_than_a_stride_are_two_strides() -> None:
    """Both sides of such a tile and what it shares are one stride, once they are whole ones."""
    spans = make_spans(256, size=32, overlap=16, stride=32)
    assert [(span.start, span.stop) for span in spans] == [(start, start + 64) for start in range(0, 224, 32)]
    tiles = make_tiles(96, 160, TilingConfig(budget=1, tile=16, overlap=8), stride=32)
    assert [(rows.start, columns.start) for rows, columns in tiles] == [
        (y, x) for x in (0, 32, 64, 96) for y in (0, 32)
    ]


@pytest.mark.parametrize(("height", "width"), [(40, 200), (200, 40), (136, 136), (24, 24)])
def test_tiles_of_a_picture_become_the_picture(height: int, width: int) -> None:
    """Only what counts is taken: what a network says wrongly near a tile's inner edge leaves no trace."""
    picture = np.random.default_rng(0).random((3, height, width), np.float32)
    blender = Blender(3, height, width)
    tiles = make_tiles(height, width, TilingConfig(1, tile=64, overlap=32), stride=8)
    assert len(tiles) > 1 or height == 24
    for tile in tiles:
        said = picture[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop].copy()
        for axis, span, length in ((1, tile.rows, height), (2, tile.columns, width)):
            edges = np.moveaxis(said, axis, 0)
            edges[:8] = edges[:8] if span.start == 0 else 0.123
            edges[-8:] = edges[-8:] if span.stop == length else 0.987
        blender.add(tile, said)
    found = blender.finish()
    assert found.dtype == np.uint8
    assert np.abs(found - picture * 255.0).max() <= 0.5 + 1e-4


def test_two_opinions_fade_into_each_other() -> None:
    """Tiles that say 0 and 200 of 255: a straight line over the middle half of what they share."""
    blender = Blender(1, 16, 96)
    left, right = make_tiles(16, 96, TilingConfig(1, tile=32, overlap=16), stride=16)
    assert (left.columns.stop, right.columns.start) == (64, 32)
    for tile, value in ((left, 0), (right, 200)):
        blender.add(tile, np.full((1, 16, 64), value / 255, np.float32))
    expected = np.rint(200 * np.clip((np.arange(96) + 0.5 - 48) / 8 + 0.5, 0, 1))
    assert np.array_equal(blender.finish()[0], np.tile(expected, (16, 1)))
