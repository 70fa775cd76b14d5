"""Random access to shards: every byte right, in any order and process, and read ahead where that helps."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from steel.shards import shard_files
from steel.shards.reader import BadSampleError, ShardReader
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


def test_what_is_asked_for_is_what_reading_takes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        shard_files,
        "ask_for",
        lambda handle, offset, length: asked.append((os.readlink(f"/proc/self/fd/{handle}"), offset, length)),
    )
    reader = ShardReader(shards)
    reader.ask_for([5, 13])
    names = "shard-000001.tar", "shard-000003.tar"
    assert [path for path, _, _ in asked] == [str((shards / name).resolve()) for name in names]
    for row, (path, offset, length) in zip((5, 13), asked, strict=True):
        at, data = reader.samples.place(row), Path(path).read_bytes()
        assert offset == at.image_offset
        assert data[offset : offset + length].endswith(data[at.json_offset : at.json_offset + at.json_length])
        assert length < at.image_length + (64 << 10)


def test_members_that_are_apart_are_asked_for_one_by_one(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steel.shards.reader._TOGETHER", 0)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(shard_files, "ask_for", lambda _, offset, length: asked.append((offset, length)))
    reader = ShardReader(shards)
    at = reader.samples.place(5)
    reader.ask_for([5])
    assert asked == [
        (at.image_offset, at.image_length),
        (at.mask_offset, at.mask_length),
        (at.json_offset, at.json_length),
    ]
    assert reader.read_bytes(5).image[:4] == b"\x89PNG"


def test_asking_for_a_missing_shard_says_nothing(shards: Path) -> None:
    reader = ShardReader(shards)
    (shards / "shard-000001.tar").unlink()
    reader.ask_for(range(14))
    reader.read(0)
    with pytest.raises(BadSampleError, match="the shard is missing"):
        reader.read(5)


def test_of_large_samples_few_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_shards(tmp_path / "s", [steel_image(n, 64, 256) for n in range(2)], [defect_mask(0, 64, 256)] * 2)
    reader = ShardReader(root)
    assert reader.num_ahead() == 64
    per_sample = sum(info.size for info in reader.manifest.shards) // 2
    monkeypatch.setattr("steel.shards.reader._BYTES_AHEAD", 3 * per_sample)
    assert reader.num_ahead() == 3
    monkeypatch.setattr("steel.shards.reader._BYTES_AHEAD", 1)
    assert reader.num_ahead() == 1
