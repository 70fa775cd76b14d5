"""Shards as tars: written by webdataset, read by it, by tarfile and at the offsets that the index gives."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
import webdataset

from data_prep import shard_file
from data_prep.shard_file import ShardFile
from steel.errors import InputError
from tests.paths import ROOT

LONG = "coil/" + "folder-of-thirty-characters-000/" * 9 + "strip"
KEYS = ("a", "Stück 1", "прокат/鋼", "b" * 99, "c" * 100, "d" * 101, LONG, LONG + "ü", "0", "_x/%5F_y")
MEMBERS = {"jpg": b"x" * 700, "mask.png": b"y" * 512, "json": b'{"classes": [1]}'}


def write(keys: tuple[str, ...] = KEYS) -> tuple[bytes, list[dict[str, int]], ShardFile]:
    """The tar, the columns of each member, and the closed writer."""
    buffer = io.BytesIO()
    with ShardFile(buffer) as tar:
        places = [tar.add("image", key, name, data + key.encode()) for key in keys for name, data in MEMBERS.items()]
    return buffer.getvalue(), places, tar


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "shard.tar"
    path.write_bytes(write()[0])
    return path


def test_offsets_size_and_hash_are_those_of_the_file() -> None:
    data, places, tar = write()
    expected = [content + key.encode() for key in KEYS for content in MEMBERS.values()]
    for place, content in zip(places, expected, strict=True):
        start = place["image_offset"]
        assert data[start : start + place["image_length"]] == content
        assert place["image_crc"] == zlib.crc32(content)
    assert (tar.size, tar.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_an_empty_member_has_a_place_too() -> None:
    buffer = io.BytesIO()
    with ShardFile(buffer) as tar:
        places = [tar.add("json", "a", "json", b""), tar.add("json", "b", "json", b"z")]
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as read:
        assert [info.offset_data for info in read] == [place["json_offset"] for place in places]


def test_pythons_library_reads_every_member_where_we_say(path: Path) -> None:
    _, places, _ = write()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert [info.name for info in members] == [f"{key}.{name}" for key in KEYS for name in MEMBERS]
        assert [info.offset_data for info in members] == [place["image_offset"] for place in places]
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in members} == {(0, 0, 0, "", "", 0o644)}


def test_webdataset_reads_every_sample(path: Path) -> None:
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(KEYS)
    for sample, key in zip(samples, KEYS, strict=True):
        assert {name: sample[name] for name in MEMBERS} == {n: data + key.encode() for n, data in MEMBERS.items()}


def test_the_same_members_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = write()[0]
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert write()[0] == before


def test_an_error_leaves_the_file_alone_from_then_on() -> None:
    class Full(io.BytesIO):
        refused = 0

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.refused += 1
            raise OSError(28, "No space left on device")

    file = Full()
    with pytest.raises(OSError, match="No space"), ShardFile(file) as tar:
        tar.add("image", "a", "jpg", b"x" * 50_000)
    del tar
    assert file.refused == 1


def test_torch_stays_out_and_webdataset_is_whole_afterwards() -> None:
    code = (
        "import sys\n"
        "from data_prep.shard_file import _import_tar_writer\n"
        "writer = _import_tar_writer()\n"
        "assert writer.__module__ == 'webdataset.writer', writer\n"
        "assert not {'torch', 'webdataset', 'webdataset.writer'} & set(sys.modules)\n"
        "import torch, webdataset\n"
        "assert issubclass(webdataset.WebDataset, torch.utils.data.IterableDataset)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shard_file._import_tar_writer.cache_clear()
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.setitem(sys.modules, "webdataset.writer", None)
    with pytest.raises(InputError, match=r"needs the package webdataset.*pip install 'steel-defects\[train\]'"):
        ShardFile(io.BytesIO())
    shard_file._import_tar_writer.cache_clear()
