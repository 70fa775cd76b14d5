"""Random access to shards: every byte right, every damage named, memory flat, remote like local."""

import hashlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from steel import storage
from steel.errors import InputError
from steel.shards import cache as caches
from steel.shards import index as shard_index
from steel.shards import reader as shard_reader
from steel.shards.cache import FetchError, ShardCache
from steel.shards.format import INDEX_NAME, MANIFEST_NAME, Manifest, index_schema, write_index
from steel.shards.index import Index
from steel.shards.reader import BadSampleError, ShardReader
from tests.shard_folder import defect_mask, make_shards, small_shards, steel_image


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture
def own_shards(tmp_path: Path) -> Path:
    """A folder that the test may damage."""
    return small_shards(tmp_path / "shards")


# --- reading -------------------------------------------------------------------------------------------------------


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


def test_index_columns(shards: Path) -> None:
    index = ShardReader(shards).index
    assert index.image_id(9) == "images/0009.png"
    assert index.key(9) == "images/0009"
    assert index.rows([1]).tolist() == [1, 3, 5, 7, 9, 11, 13]
    assert index.rows([0, 1]).tolist() == list(range(14))
    assert index.rows([7]).tolist() == []
    assert index.areas.shape == (14, 3)
    assert index.areas[4].sum() == np.count_nonzero(defect_mask(4)) > 0
    assert index.shard.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    assert (index.height[0], index.original_width[0], index.group[3]) == (32, 64, 3)


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
    monkeypatch.setattr("steel.shards.reader._MAX_OPEN", 2)
    reader = ShardReader(shards)
    before = len(os.listdir("/proc/self/fd"))
    for row in (0, 4, 8, 12, 0, 4, 8, 12):
        reader.read(row)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
    reader.read(0)


# --- damage --------------------------------------------------------------------------------------------------------


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


def test_an_index_that_contradicts_itself_is_named_once_for_all_readers(own_shards: Path) -> None:
    table = pa.ipc.open_file(pa.py_buffer((own_shards / INDEX_NAME).read_bytes())).read_all()
    rows = table.to_pylist()
    rows[9]["mask_offset"] = -512
    with open(own_shards / INDEX_NAME, "wb") as file:
        write_index(pa.Table.from_pylist(rows, table.schema), file)
    data = (own_shards / INDEX_NAME).read_bytes()
    manifest = json.loads((own_shards / MANIFEST_NAME).read_text())
    manifest |= {"index_size": len(data), "index_sha256": hashlib.sha256(data).hexdigest()}
    (own_shards / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"index\.arrow: row 9: the mask does not lie in its shard; damaged, or of"):
        ShardReader(own_shards, on_bad_sample="skip")


def test_workers_take_an_index_as_checked(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ShardReader(shards)
    seen: list[bool] = []
    read = shard_index.read_batch
    monkeypatch.setattr(
        shard_index, "read_batch", lambda *a, trusted: seen.append(trusted) or read(*a, trusted=trusted)
    )
    monkeypatch.setattr("steel.shards.reader.rows_fault", lambda *a: pytest.fail("checked again"))
    pickle.loads(pickle.dumps(reader))
    assert seen == [True]


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


# --- remote shards -------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(shards: Path) -> str:
    """The same folder in fsspec's store in memory."""
    store, url = fsspec.filesystem("memory"), f"memory://{time.time_ns()}"
    for file in shards.iterdir():
        store.pipe_file(f"{url}/{file.name}", file.read_bytes())
    return url


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


def test_local_shards_are_read_ahead_each_by_one_process(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(shard_reader, "read_ahead", lambda path: read.append(Path(path).name))
    reader = ShardReader(shards)
    reader.prefetch(part=1, num_parts=2)
    assert read == ["shard-000001.tar", "shard-000003.tar"]
    reader.prefetch(part=0, num_parts=2)
    assert sorted(read) == [f"shard-{n:06d}.tar" for n in range(4)]


def test_shards_that_fill_the_memory_are_not_read_ahead(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(info.size for info in Manifest.load(str(shards)).shards)
    monkeypatch.setattr(shard_reader, "available_memory", lambda: 2 * size - 1)
    monkeypatch.setattr(shard_reader, "read_ahead", lambda path: pytest.fail(f"{path} is read ahead"))
    ShardReader(shards).prefetch()


def test_shards_are_not_read_ahead_once_their_samples_are_held_decoded(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, read = ShardReader(shards), list[str]()
    monkeypatch.setattr(shard_reader, "read_ahead", lambda path: read.append(path))
    reader.keep_decoded(tmp_path)
    reader.prefetch()
    assert len(read) == 4  # as nothing is held yet
    reader.read(0)
    reader.prefetch()
    assert len(read) == 4


def test_a_full_cache_lets_go_of_what_was_used_longest_ago(remote: str, shards: Path, tmp_path: Path) -> None:
    sizes = [info.size for info in Manifest.load(str(shards)).shards]
    reader = ShardReader(remote, cache_dir=tmp_path, cache_bytes=sizes[0] + sizes[1] + sizes[2])
    for row in (0, 4, 8, 12, 1, 5, 9, 13):
        assert np.array_equal(reader.read(row).image, steel_image(row))
        kept = list(tmp_path.rglob("*.tar"))
        assert sum(p.stat().st_size for p in kept) <= sum(sizes[:3])
    held = [os.fstat(handle).st_nlink for handle in reader._handles.values()]
    assert held.count(0) <= 1  # removed copies do not stay on the disk through open handles


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


def test_unknown_stores_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch"):
        ShardReader("nosuch://bucket/folder", cache_dir=tmp_path)
    with pytest.raises(FetchError):
        ShardCache("memory://nothing", "0" * 64, folder=tmp_path).local_file("index.arrow", 1, "")


# --- ten million samples -------------------------------------------------------------------------------------------


def write_large_index(path: Path, num: int) -> None:
    """An index of `num` rows of plausible content, written in parts."""
    generator = np.random.default_rng(0)
    schema = index_schema(4)
    rows = np.arange(num)
    names = pa.array(rows).cast(pa.string())
    columns: dict[str, pa.Array] = {}
    for field in schema:
        if field.name == "areas":
            areas = generator.integers(0, 3, num * 4, dtype=np.int32)
            columns[field.name] = pa.FixedSizeListArray.from_arrays(pa.array(areas), type=field.type)
        elif pa.types.is_string(field.type):
            columns[field.name] = names
        elif field.name in ("fold", "shard"):
            columns[field.name] = pa.array(rows % 5 if field.name == "fold" else rows // 1000).cast(field.type)
        else:
            columns[field.name] = pa.array(rows).cast(field.type)
    batch = pa.record_batch([columns[field.name] for field in schema], schema=schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)


def test_rows_are_looked_up_alike_in_small_and_large_indexes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Index(shards / INDEX_NAME, 3)
    monkeypatch.setattr("steel.shards.index._TABLE_ROWS", 0)
    large = pickle.loads(pickle.dumps(Index(shards / INDEX_NAME, 3)))
    assert large._table is None
    for row in range(14):
        assert small.place(row) == large.place(row)
        assert small.place(row).num_marked == np.count_nonzero(defect_mask(row))


@pytest.mark.slow
def test_ten_million_rows_open_at_once_and_stay_out_of_memory(tmp_path: Path) -> None:
    write_large_index(tmp_path / "index.arrow", 10_000_000)
    program = textwrap.dedent(
        """
        import pickle, sys, time
        import numpy as np
        from steel.shards.index import Index
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        before, start = resident(), time.perf_counter()
        index = Index(sys.argv[1], 4)
        opened = time.perf_counter() - start
        opened_size = resident() - before
        most, start = 0, time.perf_counter()
        rows = np.random.default_rng(0).integers(0, len(index), 20_000)
        for row in rows:
            place = index.place(int(row))
            assert place.image_offset == place.json_crc == place.height == row
            assert place.shard == row // 1000
            most = max(most, resident() - before)
        looked = (time.perf_counter() - start) / len(rows)
        print(opened, opened_size, most, looked, len(pickle.dumps(index)))
        """
    )
    output = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "index.arrow")], capture_output=True, text=True, check=True
    ).stdout
    opened, opened_size, most, looked, pickled = (float(v) for v in output.split())
    print(
        f"opened in {opened:.3f} s, {opened_size / 1e6:.1f} MB; then at most {most / 1e6:.1f} MB "
        f"and {looked * 1e6:.1f} us a row"
    )
    assert opened < 2
    assert most < 100e6
    assert pickled < 1000


def test_manifest_is_needed_last(own_shards: Path) -> None:
    (own_shards / MANIFEST_NAME).unlink()
    with pytest.raises(InputError, match="unfinished"):
        ShardReader(own_shards)
