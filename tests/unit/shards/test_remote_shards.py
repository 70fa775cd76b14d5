"""Remote shards: read like local ones, each fetched once, whatever the store and the disk do."""

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from steel import storage
from steel.errors import InputError
from steel.shards import cache as caches
from steel.shards import shard_files
from steel.shards.cache import FetchError, ShardCache
from steel.shards.format import MANIFEST_NAME, Manifest
from steel.shards.reader import BadSampleError, ShardReader
from tests.shard_folder import damage_image, put_in_memory, rename_shards, steel_image


@pytest.fixture
def remote(shards: Path) -> str:
    """The same folder in a store."""
    return put_in_memory(shards)


def count_downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    download = caches.storage.download

    def counted(url: str, path: Path) -> None:
        names.append(url.rsplit("/", 1)[1])
        time.sleep(0.02)
        download(url, path)

    monkeypatch.setattr(caches.storage, "download", counted)
    return names


def test_remote_shards_read_like_local_ones_and_are_fetched_once(
    remote: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = count_downloads(monkeypatch)
    local = ShardReader(shards)
    for _ in range(2):
        reader = ShardReader(remote, cache_dir=tmp_path)
        for row in (3, 13, 0, 7, 4):
            for a, b in zip(reader.read(row), local.read(row), strict=True):
                assert np.array_equal(a, b)
    assert sorted(names) == ["index.arrow", "shard-000000.tar", "shard-000001.tar", "shard-000003.tar"]
    assert not list(tmp_path.rglob("*partial*"))


def test_many_readers_at_once_fetch_each_shard_once(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = count_downloads(monkeypatch)

    def read_all() -> None:
        reader = ShardReader(remote, cache_dir=tmp_path)
        for row in range(14):
            assert np.array_equal(reader.read(row).image, steel_image(row))

    threads = [threading.Thread(target=read_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == ["index.arrow", *(f"shard-{n:06d}.tar" for n in range(4))]


def test_prefetch_takes_what_no_other_process_is_at(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = count_downloads(monkeypatch)
    reader = ShardReader(remote, cache_dir=tmp_path)
    assert reader.cache is not None
    with reader.cache._locked("shard-000001.tar"):
        reader.prefetch(part=2, num_parts=4)
    assert names[1:] == ["shard-000002.tar", "shard-000003.tar", "shard-000000.tar"]


def test_a_process_alone_fetches_several_shards_at_a_time(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(remote, cache_dir=tmp_path)
    together, download = threading.Barrier(4, timeout=20), storage.download

    def download_together(url: str, path: Path) -> None:
        together.wait()  # passes when four are there
        download(url, path)

    monkeypatch.setattr(storage, "download", download_together)
    reader.prefetch()
    assert len(list(tmp_path.rglob("*.tar"))) == 4
    assert np.array_equal(reader.read(13).image, steel_image(13))


def test_shards_are_asked_for_once_they_are_on_this_node(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        shard_files, "ask_for", lambda handle, *_: asked.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
    )
    names = count_downloads(monkeypatch)
    reader = ShardReader(remote, cache_dir=tmp_path)
    reader.ask_for(range(14))
    assert (names, asked) == (["index.arrow"], [])
    ShardReader(remote, cache_dir=tmp_path).read(5)  # another process fetches one
    reader.ask_for(range(14))
    assert asked == ["shard-000001.tar"] * 4
    assert names == ["index.arrow", "shard-000001.tar"]


def test_a_full_cache_lets_go_of_what_was_used_longest_ago(remote: str, shards: Path, tmp_path: Path) -> None:
    sizes = [info.size for info in Manifest.load(str(shards)).shards]
    reader = ShardReader(remote, cache_dir=tmp_path, cache_bytes=sizes[0] + sizes[1] + sizes[2])
    for row in (0, 4, 8, 12, 1, 5, 9, 13):
        assert np.array_equal(reader.read(row).image, steel_image(row))
        kept = list(tmp_path.rglob("*.tar"))
        assert sum(p.stat().st_size for p in kept) <= sum(sizes[:3])
    held = [os.fstat(handle).st_nlink for handle in reader._files._handles.values()]
    assert held.count(0) <= 1  # removed copies do not stay on the disk through open handles


def test_what_is_asked_for_is_used_and_not_the_first_to_go(remote: str, shards: Path, tmp_path: Path) -> None:
    sizes = [info.size for info in Manifest.load(str(shards)).shards]
    earlier = ShardReader(remote, cache_dir=tmp_path)
    for row in (0, 4, 8):
        earlier.read(row)
    reader = ShardReader(remote, cache_dir=tmp_path, cache_bytes=sum(sizes) - sizes[1])
    reader.ask_for([0])
    reader.read(0)
    reader.read(12)
    kept = sorted(path.name for path in tmp_path.rglob("*.tar"))
    assert kept == ["shard-000000.tar", "shard-000002.tar", "shard-000003.tar"]


def test_the_bound_is_kept_while_many_fetch_at_once(
    remote: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = Manifest.load(str(shards)).shards
    bound = sum(info.size for info in infos[:2])
    sizes, coming, peaks, counting = {info.name: info.size for info in infos}, list[int](), [0], threading.Lock()
    download = storage.download

    def counted(url: str, path: Path) -> None:
        with counting:
            coming.append(sizes[url.rsplit("/", 1)[1]])
            peaks.append(sum(coming) + sum(file.stat().st_size for file in tmp_path.rglob("*.tar")))
        time.sleep(0.02)
        download(url, path)
        with counting:
            coming.remove(sizes[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(storage, "download", counted)
    failures: list[Exception] = []

    def open_all(seed: int) -> None:
        cache = ShardCache(remote, "0" * 64, folder=tmp_path, max_bytes=bound)
        try:
            for number in np.random.default_rng(seed).integers(len(infos), size=12):
                os.close(cache.open_shard(infos[number]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_all, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert max(peaks) <= bound
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.tar")) <= bound


def test_a_shard_larger_than_the_bound_is_held_alone(remote: str, tmp_path: Path) -> None:
    reader = ShardReader(remote, cache_dir=tmp_path, cache_bytes=1)
    for row in (0, 13, 0):
        assert np.array_equal(reader.read(row).image, steel_image(row))
        assert len(list(tmp_path.rglob("*.tar"))) == 1


def test_a_shard_that_goes_as_soon_as_it_has_come_is_read(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may need its room before this one has looked at it."""
    rename = os.replace

    def rename_and_remove(partial: Path, path: Path) -> None:
        rename(partial, path)
        if path.suffix == ".tar":
            path.unlink()

    monkeypatch.setattr(os, "replace", rename_and_remove)
    assert np.array_equal(ShardReader(remote, cache_dir=tmp_path, cache_bytes=1).read(5).image, steel_image(5))


def test_shards_in_capitals_and_in_folders_make_room_too(own_shards: Path, tmp_path: Path) -> None:
    sizes = [info.size for info in Manifest.load(str(own_shards)).shards]
    rename_shards(own_shards, ["A.TAR", "b.tar/c.Tar", "b.tar/d.tar", "e.tar"])
    reader = ShardReader(put_in_memory(own_shards), cache_dir=tmp_path / "cache", cache_bytes=max(sizes))
    for row in (0, 4, 8, 12):
        assert np.array_equal(reader.read(row).image, steel_image(row))
        kept = [path for path in (tmp_path / "cache").rglob("*.*") if path.is_file() and path.name[0] != "."]
        assert len(kept) == 2  # with the index


def test_room_of_a_process_that_was_killed_is_free_again(remote: str, shards: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(str(shards))
    sizes = [info.size for info in manifest.shards]
    folder = ShardCache(remote, manifest.digest, folder=tmp_path).folder
    for name, size in (("shard-000000.tar", sizes[0]), ("shard-000001.tar", sizes[1])):
        (folder / f".{name}.partial").write_bytes(b"half of it")
        (folder / f".{name}.lock").touch()
        os.truncate(folder / f".{name}.lock", size)
    reader = ShardReader(remote, cache_dir=tmp_path, cache_bytes=sum(sizes[:2]))
    for row in (0, 12):
        assert np.array_equal(reader.read(row).image, steel_image(row))
    assert sorted(path.name for path in folder.glob("*.tar")) == ["shard-000000.tar", "shard-000003.tar"]
    assert not list(folder.glob(".*.partial"))


def test_a_remote_shard_that_is_missing_cut_or_changed_is_named(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_PAUSES", (0.0,))
    store = fsspec.filesystem("memory")
    store.rm(f"{remote}/shard-000000.tar")
    store.pipe_file(f"{remote}/shard-000001.tar", b"x" * 100)
    data = bytearray(store.cat_file(f"{remote}/shard-000002.tar"))
    data[600] ^= 1
    store.pipe_file(f"{remote}/shard-000002.tar", bytes(data))
    reader = ShardReader(remote, cache_dir=tmp_path)
    for row, reason in ((0, "shard-000000.tar is missing"), (4, "100 bytes came"), (8, "sha256 is not the manifest's")):
        with pytest.raises(BadSampleError, match=reason):
            reader.read(row)
    assert not [p for p in tmp_path.rglob("*.tar*") if not p.name.startswith(".")]
    assert np.array_equal(reader.read(13).image, steel_image(13))


def test_a_passing_fault_is_tried_again(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_PAUSES", (0.0, 0.0))
    download, failures = caches.storage.download, iter([ConnectionError("reset"), TimeoutError("slow")])

    def flaky(url: str, path: Path) -> None:
        error = next(failures, None) if url.endswith(".tar") else None
        if error is not None:
            Path(path).write_bytes(b"half")
            raise error
        download(url, path)

    monkeypatch.setattr(caches.storage, "download", flaky)
    assert np.array_equal(ShardReader(remote, cache_dir=tmp_path).read(2).image, steel_image(2))


def test_a_full_disk_stays_a_full_disk(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ShardReader(remote, cache_dir=tmp_path, on_bad_sample="skip")

    def full(url: str, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(caches.storage, "download", full)
    with pytest.raises(OSError, match="No space left") as caught:
        reader.read(0)
    assert not isinstance(caught.value, InputError)


def test_a_fetch_that_was_killed_leaves_nothing_in_the_way(remote: str, shards: Path, tmp_path: Path) -> None:
    digest = Manifest.load(str(shards)).digest
    cache = ShardCache(remote, digest, folder=tmp_path)
    (cache.folder / ".shard-000000.tar.partial").write_bytes(b"half of it")
    (cache.folder / ".shard-000000.tar.lock").touch()
    (cache.folder / "shard-000000.tar").write_bytes(b"")  # as a crash of the machine may leave it
    assert np.array_equal(ShardReader(remote, cache_dir=tmp_path).read(0).image, steel_image(0))


# --- damaged copies ------------------------------------------------------------------------------------------------


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("member", ["image", "mask"])
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_copy_of_a_shard_is_fetched_again_once_for_all(
    remote: str, tmp_path: Path, member: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = count_downloads(monkeypatch)
    readers = [ShardReader(remote, cache_dir=tmp_path) for _ in range(2)]
    expected, _ = [reader.read(5) for reader in readers]  # both have the shard open
    assert expected.bitmask.any()
    (copy,) = tmp_path.rglob("*.tar")
    at = readers[0].samples.place(5)
    if damage == "flipped":
        flip(copy, at.image_offset + at.image_length // 2 if member == "image" else at.mask_offset + 1)
    else:
        os.truncate(copy, 1000)
    assert readers[0].read_bytes(5) == ShardReader(remote, cache_dir=tmp_path / "another").read_bytes(5)
    for reader in (*readers, ShardReader(remote, cache_dir=tmp_path)):
        for a, b in zip(reader.read(5), expected, strict=True):
            assert np.array_equal(a, b)
    assert names.count("shard-000001.tar") == 1 + 1 + 1  # the other folder's among them


def test_what_is_wrong_in_the_store_is_told_and_not_fetched_for_ever(
    own_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_image(own_shards, 5)
    manifest = Manifest.load(str(own_shards))
    tar = (own_shards / "shard-000001.tar").read_bytes()
    damaged = replace(manifest.shards[1], sha256=hashlib.sha256(tar).hexdigest())
    infos = (manifest.shards[0], damaged, *manifest.shards[2:])
    (own_shards / MANIFEST_NAME).write_text(replace(manifest, shards=infos).to_json())
    names = count_downloads(monkeypatch)
    reader = ShardReader(put_in_memory(own_shards), cache_dir=tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(BadSampleError, match=r"wrong checksum; `python -m data_prep\.verify` finds all"):
            reader.read(5)
    assert np.array_equal(reader.read(4).image, steel_image(4))
    assert names == ["index.arrow", "shard-000001.tar"]


def test_a_damaged_copy_stays_where_the_store_has_no_other(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(remote, cache_dir=tmp_path)
    at = reader.samples.place(5)
    reader.read(5)
    (copy,) = tmp_path.rglob("*.tar")
    flip(copy, at.image_offset + at.image_length // 2)
    fsspec.filesystem("memory").rm(f"{remote}/shard-000001.tar")
    with pytest.raises(BadSampleError, match=r"shard-000001\.tar is missing"):
        reader.read(5)
    assert np.array_equal(reader.read(4).image, steel_image(4))


def test_a_damaged_copy_of_the_index_is_fetched_again(remote: str, shards: Path, tmp_path: Path) -> None:
    """Folds of two rows exchanged: no count of the manifest tells."""
    ShardReader(remote, cache_dir=tmp_path)
    (copy,) = tmp_path.rglob("index.arrow")
    folds = ShardReader(shards).samples.fold.tobytes()
    data = copy.read_bytes()
    assert data.count(folds) == 1
    copy.write_bytes(data.replace(folds, folds[2:4] + folds[:2] + folds[4:]))
    assert ShardReader(remote, cache_dir=tmp_path).samples.fold.tobytes() == folds
    assert copy.read_bytes() == data


def test_a_copy_is_on_the_disk_before_it_has_its_name(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut may leave a file of the right size without its bytes."""
    events: list[tuple[str, int]] = []
    fsync, rename = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        events.append(("on disk", os.fstat(handle).st_ino))

    def noted_rename(source: Path, target: Path) -> None:
        events.append(("named", source.stat().st_ino))
        rename(source, target)

    reader = ShardReader(remote, cache_dir=tmp_path)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_rename)
    reader.read(0)
    (copy,) = tmp_path.rglob("*.tar")
    assert events == [("on disk", copy.stat().st_ino), ("named", copy.stat().st_ino)]


def test_names_as_long_as_a_file_may_have_are_fetched_and_held(own_shards: Path, tmp_path: Path) -> None:
    folders = "/".join(["f" * 80] * 4)
    names = ["x" * 251 + ".tar", "ü" * 125 + "/a.tar", folders + "/a.tar", folders + "/b.tar"]
    rename_shards(own_shards, names)
    reader = ShardReader(put_in_memory(own_shards), cache_dir=tmp_path / "cache", cache_bytes=1 << 20)
    reader.keep_decoded(tmp_path / "node", 1 << 20)
    for row in (0, 4, 8, 12):
        assert np.array_equal(reader.read(row).image, steel_image(row))
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 4
    assert len(list((tmp_path / "node").rglob("*.decoded"))) == 4


def test_unknown_stores_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch"):
        ShardReader("nosuch://bucket/folder", cache_dir=tmp_path)
    with pytest.raises(FetchError):
        ShardCache("memory://nothing", "0" * 64, folder=tmp_path).local_file("index.arrow", 1, "")
