"""Shards that are damaged, cut short, missing or foreign: each is named, none is read as if it were whole."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from steel.errors import InputError
from steel.shards.format import INDEX_NAME, MANIFEST_NAME
from steel.shards.index import Index
from steel.shards.reader import BadSampleError, ShardReader
from tests.shard_folder import small_shards, steel_image


def flip_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_an_image_or_mask_is_found(own_shards: Path) -> None:
    whole = ShardReader(own_shards)
    shard, row = own_shards / "shard-000001.tar", 4  # its first sample, which has a defect
    at = whole.samples.place(row)
    for offset, length in ((at.image_offset, at.image_length), (at.mask_offset, at.mask_length)):
        for nth in (0, length // 2, length - 1):
            flip_byte(shard, offset + nth)
            with pytest.raises(BadSampleError, match=r"shard-000001.tar: sample images/0004.png .*wrong checksum"):
                ShardReader(own_shards).read(row)
            with pytest.raises(BadSampleError):
                ShardReader(own_shards).read_bytes(row)
            ShardReader(own_shards).read(row + 1)  # its neighbour is whole
            flip_byte(shard, offset + nth)
    ShardReader(own_shards).read(row)


def test_missing_and_truncated_shards_are_refused_at_once_or_skipped_by_sample(own_shards: Path) -> None:
    (own_shards / "shard-000002.tar").unlink()
    os.truncate(own_shards / "shard-000001.tar", 2048)
    with pytest.raises(
        InputError, match=r"2 of 4 shards .*shard-000001.tar \(2048 of \d+ bytes\), shard-000002.tar \(missing"
    ):
        ShardReader(own_shards)
    reader = ShardReader(own_shards, on_bad_sample="skip")
    with pytest.raises(BadSampleError, match=r"row 8.*the shard is missing"):
        reader.read(8)
    with pytest.raises(BadSampleError, match=r"row 7.*the shard is cut short"):
        reader.read(7)
    assert np.array_equal(reader.read(0).image, steel_image(0))


def test_a_bad_sample_error_survives_pickling(own_shards: Path) -> None:
    (own_shards / "shard-000002.tar").unlink()
    with pytest.raises(BadSampleError) as caught:
        ShardReader(own_shards, on_bad_sample="skip").read(8)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_pixels_that_contradict_the_index_are_found(tmp_path: Path) -> None:
    root = small_shards(tmp_path / "s")
    index = (root / INDEX_NAME).read_bytes()
    heights = np.full(14, 32, "<i4").tobytes()
    assert index.count(heights) == 2  # height and original_height
    changed = index.replace(heights, np.full(14, 33, "<i4").tobytes(), 1)
    reader = ShardReader(root)
    (root / INDEX_NAME).write_bytes(changed)
    reader.samples = Index(root / INDEX_NAME, 3)
    with pytest.raises(BadSampleError, match=r"the image is 32x64, the index says 33x64"):
        reader.read(0)
    with pytest.raises(InputError, match=r"not the index that manifest.json describes"):
        ShardReader(root)


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/hostname", "a/../../outside.tar"])
def test_a_shard_outside_of_its_folder_is_never_opened(own_shards: Path, name: str) -> None:
    manifest = json.loads((own_shards / MANIFEST_NAME).read_text())
    (own_shards.parent / "outside.tar").write_bytes((own_shards / "shard-000000.tar").read_bytes())
    manifest["shards"][0]["name"] = name
    (own_shards / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=rf"manifest\.json: not a manifest of shards \('{name}' is no name of a shard"):
        ShardReader(own_shards)


def test_unfinished_and_foreign_folders_give_one_line(own_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest.json"):
        ShardReader(tmp_path)
    with pytest.raises(InputError, match="not an index of 5 classes"):
        Index(own_shards / INDEX_NAME, 5)
    (tmp_path / "x.arrow").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"x.arrow: not an index of 3 classes .*damaged"):
        Index(tmp_path / "x.arrow", 3)
    (own_shards / INDEX_NAME).unlink()
    with pytest.raises(InputError, match=r"index.arrow: missing"):
        ShardReader(own_shards)


def test_manifest_is_needed_last(own_shards: Path) -> None:
    (own_shards / MANIFEST_NAME).unlink()
    with pytest.raises(InputError, match="unfinished"):
        ShardReader(own_shards)
