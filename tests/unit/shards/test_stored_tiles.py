"""Tiles of stored images: where they lie, and that an index whose tiles do not fit together is refused."""

from itertools import pairwise

import numpy as np
import pytest

from steel.shards.tiles import TileGrid, image_starts, tiles_fault

GRID = TileGrid(8, 10, 2)


def test_places_by_hand() -> None:
    """13 rows in tiles of 8 that share 3; 24 columns in three tiles of 10 that share 3 of them."""
    assert GRID.places(13, 24) == [
        (0, 0, 8, 10), (0, 7, 8, 10), (0, 14, 8, 10),
        (5, 0, 8, 10), (5, 7, 8, 10), (5, 14, 8, 10),
    ]  # fmt: skip
    assert GRID.places(3, 19) == [(0, 0, 3, 10), (0, 4, 3, 10), (0, 9, 3, 10)]
    assert GRID.places(8, 10) == [(0, 0, 8, 10)]
    assert GRID.places(1, 1) == [(0, 0, 1, 1)]


@pytest.mark.parametrize("grid", [TileGrid(32, 48, 0), TileGrid(32, 48, 8), TileGrid(64, 33, 16)])
def test_every_pixel_is_in_a_tile_and_neighbours_share_the_overlap(grid: TileGrid) -> None:
    for height, width in [(1, 1), (31, 200), (32, 48), (33, 49), (100, 97), (64, 500), (257, 33)]:
        count = np.zeros((height, width), int)
        places = grid.places(height, width)
        for place in places:
            assert (place.height, place.width) == (min(height, grid.height), min(width, grid.width))
            assert count[place.inside].shape == (place.height, place.width)
            count[place.inside] += 1
        assert count.min() == 1
        tops, lefts = sorted({place.top for place in places}), sorted({place.left for place in places})
        for starts, size in ((tops, grid.height), (lefts, grid.width)):
            assert all(later - earlier <= size - grid.overlap for earlier, later in pairwise(starts))


def columns_of_two_images() -> dict[str, np.ndarray]:
    """Of an image of 8x17 in two tiles, whose middle columns 7 to 9 are in both, and of one of 8x10."""
    columns = {
        "top": [0, 0, 0],
        "left": [0, 7, 0],
        "height": [8, 8, 8],
        "width": [10, 10, 10],
        "original_height": [8, 8, 8],
        "original_width": [10, 10, 10],
        "image_height": [8, 8, 8],
        "image_width": [17, 17, 10],
        "areas": [[24, 0], [30, 1], [0, 5]],
        "image_areas": [[36, 1], [36, 1], [0, 5]],
        "ignored": [0, 2, 0],
        "image_ignored": [2, 2, 0],
        "shard": [0, 0, 0],
        "fold": [1, 1, 0],
        "group": [4, 4, 5],
    }
    return {name: np.array(values, np.int32) for name, values in columns.items()}


def test_tiles_that_fit_have_no_fault() -> None:
    columns = columns_of_two_images()
    assert tiles_fault(columns, GRID) is None
    assert image_starts(columns).tolist() == [0, 2]
    assert tiles_fault({name: column[:0] for name, column in columns.items()}, GRID) is None


@pytest.mark.parametrize(
    ("name", "row", "value", "fault"),
    [
        ("left", 0, 1, "row 0: not the first tile of an image"),
        ("left", 1, 6, "row 1: a tile at another place"),
        ("left", 1, 0, "row 0: the image has another number of tiles"),
        ("top", 2, 1, "row 2: another group than|row 2: another fold than"),
        ("top", 1, -1, "row 1: a tile at another place"),
        ("width", 1, 9, "row 1: a tile of another size"),
        ("height", 2, 7, "row 2: a tile of another size"),
        ("original_width", 1, 20, "row 1: a reduced tile"),
        ("fold", 1, 0, "row 1: another fold than the image's first tile"),
        ("group", 1, 5, "row 1: another group than"),
        ("shard", 1, 1, "row 1: another shard than"),
        ("image_width", 1, 18, "row 1: another image_width than"),
        ("image_height", 2, 0, "row 2: a tile of an image of impossible size"),
        ("image_height", 2, 2**31 - 1, "row 2: a tile of an image of impossible size"),
        ("image_width", 2, 11, "row 2: the image has another number of tiles"),
        ("image_ignored", 2, 1, "row 2: more or fewer marked pixels"),
        ("ignored", 0, 3, "row 0: more or fewer marked pixels"),
    ],
)
def test_each_value_that_cannot_be_is_named(name: str, row: int, value: int, fault: str) -> None:
    columns = columns_of_two_images()
    columns[name][row] = value
    found = tiles_fault(columns, GRID)
    assert found is not None
    assert any(found.startswith(one) for one in fault.split("|")), found


@pytest.mark.parametrize(("area", "sound"), [(29, False), (30, True), (54, True), (55, False)])
def test_an_image_has_the_pixels_of_its_fullest_tile_at_least_and_of_all_at_most(area: int, sound: bool) -> None:
    columns = columns_of_two_images()
    columns["image_areas"][:2, 0] = area
    assert (tiles_fault(columns, GRID) is None) is sound
