"""The size of full-size crops: the largest training image, or a tile of it where that is beyond the budget."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steel.config import PhaseConfig, SamplingConfig, TilingConfig
from steel.errors import SharedError
from steel.shards.tiles import TileGrid
from train.engine.batch_plan import PhasePlan, micro_batch_share
from train.engine.data import explain_crop, resolve_crop
from train.engine.run_progress import announce_phases

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


def test_full_size_keeps_to_a_budget_that_is_less_than_a_tile() -> None:
    """Of 10,000 pixels, and not of a tile's 262,144."""
    tiling = TilingConfig(budget=10_000, tile=512, overlap=128)
    assert resolve_crop(reader_of((256, 1500)), np.array([0]), (0, 0), tiling) == (100, 100)
    assert resolve_crop(reader_of((50, 1500)), np.array([0]), (0, 0), tiling) == (50, 200)
    assert resolve_crop(reader_of((1500, 20)), np.array([0]), (0, 0), tiling) == (500, 20)
    told = explain_crop(reader_of((50, 1500)), np.array([0]), (0, 0), tiling)
    assert told is not None
    assert "takes 50x200 of them" in told


def announce(phase: PhaseConfig, reader: Any, rows: np.ndarray, tiling: TilingConfig) -> None:
    plan = PhasePlan(0, phase, 16, 16, first_global_step=0, share=micro_batch_share(phase, 0, 1))
    config = SimpleNamespace(tiling=tiling, reasons={})
    context = SimpleNamespace(plans=(plan,), reader=reader, rows=SimpleNamespace(train=rows), config=config)
    announce_phases(context, SimpleNamespace(phase=0, step=0))  # type: ignore[arg-type]


def test_the_run_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "train.fit")
    phase = PhaseConfig("full", 2, (0, 0), 8, 2, lr=1e-3)
    tiling = TilingConfig(budget=300_000, tile=512, overlap=128)
    announce(phase, reader_of((256, 1500)), np.array([0]), tiling)
    first, second = [record.getMessage() for record in caplog.records]
    assert "8 images of 256x1024" in first
    assert second.startswith("phase 1: images of up to 256x1500 are more than the 300,000 pixels of --tiling.budget")


def test_full_size_of_images_in_tiles_is_that_of_the_largest_tile() -> None:
    assert resolve_crop(tiled_reader(), ROWS, (0, 0), TilingConfig()) == (40, 64)
    told = explain_crop(tiled_reader(), ROWS, (0, 0), TilingConfig())
    assert told == "the shards store large images in tiles: crop (0, 0) takes whole tiles of up to 40x64"


def test_a_crop_larger_than_the_tiles_of_larger_images_is_refused() -> None:
    reader, tiling = tiled_reader(), TilingConfig()
    for crop in ((40, 65), (32, 300)):
        with pytest.raises(SharedError, match="images of up to 40x300 in tiles of 40x64; give a crop"):
            resolve_crop(reader, ROWS, crop, tiling)
    # A side that is larger than all images is mirrored beyond them, as anywhere.
    assert resolve_crop(reader, ROWS, (64, 64), tiling) == (64, 64)
    assert resolve_crop(reader, np.array([2]), (96, 96), tiling) == (96, 96)


def test_a_crop_that_shows_more_than_a_tile_at_its_smallest_scale_is_refused() -> None:
    reader, tiling = tiled_reader(), TilingConfig()
    with pytest.raises(SharedError, match=r"crop 32x33 at a scale of 0\.5, which shows 64x66: .* that shows no more"):
        resolve_crop(reader, ROWS, (32, 33), tiling, 0.5)
    with pytest.raises(SharedError, match=r"crop 40x64 at a scale of 0\.5, which shows 80x128: "):
        resolve_crop(reader, ROWS, (0, 0), tiling, 0.5)
    assert resolve_crop(reader, ROWS, (32, 32), tiling, 0.5) == (32, 32)
    assert resolve_crop(reader, ROWS, (40, 64), tiling, 2.0) == (40, 64)
    with pytest.raises(SharedError, match="crop 40x65: "):  # validation's are not scaled
        resolve_crop(reader, ROWS, (40, 65), tiling, 2.0)
    assert resolve_crop(reader_of((256, 1500)), np.array([0]), (0, 0), tiling, 0.5) == (256, 1500)


def test_a_phase_at_such_a_scale_is_refused_before_the_run_begins() -> None:
    def phase(*zoom: float) -> PhaseConfig:
        return PhaseConfig("crops", 2, (32, 40), 8, 2, lr=1e-3, sampling=SamplingConfig(zoom=(zoom[0], zoom[1])))

    announce(phase(0.8, 2), tiled_reader(), ROWS, TilingConfig())
    with pytest.raises(SharedError, match=r"crop 32x40 at a scale of 0\.5, which shows 64x80: "):
        announce(phase(0.5, 2), tiled_reader(), ROWS, TilingConfig())
