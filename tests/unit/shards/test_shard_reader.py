"""Random access to shards: every byte right, in any order and process, and read ahead where that helps."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from steel.shards import shard_files
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image


def test_every_sample_comes_back_in_any_order(shards: Path) -> None:
    reader = ShardReader(shards)
    assert len(reader) == 14
    for row in np.random.default_rng(0).permutation(np.repeat(np.arange(14), 2)):
        sample = reader.read(int(row))
        assert sample.row == row
        assert np.array_equal(sample.image, steel_image(row))
        assert np.array_equal(sample.bitmask, defect_mask(row))
        assert sample.bitmask.dtype == np.uint8


def test_raw_bytes_are_what_the_tar_holds(shards: Path) -> None:
    reader = ShardReader(shards)
    for verify in (True, False):
        raw = reader.read_bytes(5, verify=verify)
        assert raw.image[:8] == raw.mask[:8] == b"\x89PNG\r\n\x1a\n"
        assert json.loads(raw.meta) == {"image_id": "images/0005.png"}


def test_colour_images_come_as_rgb_and_sizes_may_differ(tmp_path: Path) -> None:
    images = [steel_image(n, 20 + n, 30, 3) for n in range(3)]
    root = make_shards(tmp_path / "s", images, [defect_mask(n, 20 + n, 30) for n in range(3)])
    reader = ShardReader(root)
    for n in range(3):
        assert np.array_equal(reader.read(n).image, images[n])
        assert reader.read(n).bitmask.shape == (20 + n, 30)


def test_ignored_pixels_are_read_even_where_no_class_is(tmp_path: Path) -> None:
    bitmask = np.zeros((8, 8), np.uint8)
    bitmask[0, 0] = 128
    root = make_shards(tmp_path / "s", [steel_image(0, 8, 8)], [bitmask], ignore_bit=7)
    assert ShardReader(root).read(0).bitmask[0, 0] == 128


def test_clean_bitmasks_are_shared_and_cannot_be_changed(shards: Path) -> None:
    reader = ShardReader(shards)
    first, second = reader.read(0).bitmask, reader.read(3).bitmask
    assert first is second
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1


def test_a_reader_travels_to_other_processes(shards: Path) -> None:
    reader = ShardReader(shards)
    reader.read(0)
    assert len(pickle.dumps(reader)) < 5000
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            sample = pool.apply(reader.read, (7,))
        assert np.array_equal(sample.image, steel_image(7))


def test_few_shards_stay_open(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steel.shards.shard_files._MAX_OPEN", 2)
    reader = ShardReader(shards)
    before = len(os.listdir("/proc/self/fd"))
    for row in (0, 4, 8, 12, 0, 4, 8, 12):
        reader.read(row)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
    reader.read(0)


def test_local_shards_are_read_ahead_each_by_one_process(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(shard_files, "read_ahead", lambda paths: read.extend(path.name for path in paths))
    reader = ShardReader(shards)
    reader.prefetch(part=1, num_parts=2)
    assert read == ["shard-000001.tar", "shard-000003.tar"]
    reader.prefetch(part=0, num_parts=2)
    assert sorted(read) == [f"shard-{n:06d}.tar" for n in range(4)]


def test_shards_that_fill_the_memory_are_not_read_ahead(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(info.size for info in Manifest.load(str(shards)).shards)
    monkeypatch.setattr(shard_files, "available_memory", lambda: 2 * size - 1)
    monkeypatch.setattr(shard_files, "read_ahead", lambda paths: pytest.fail(f"{paths} are read ahead"))
    ShardReader(shards).prefetch()


def test_shards_are_not_read_ahead_once_their_samples_are_held_decoded(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, read = ShardReader(shards), list[str]()
    monkeypatch.setattr(shard_files, "read_ahead", read.extend)
    reader.keep_decoded(tmp_path)
    reader.prefetch()
    assert len(read) == 4  # as nothing is held yet
    reader.read(0)
    reader.prefetch()
    assert len(read) == 4
