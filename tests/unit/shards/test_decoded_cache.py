"""Decoded samples on disk: the same pixels, from any number of writers, whatever dies or breaks."""

import errno
import fcntl
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import IO

import cv2
import numpy as np
import PIL
import pytest
import simplejpeg

from steel.shards import decoded_cache, shard_files
from steel.shards import reader as readers
from steel.shards.decoded_room import disk_bytes, hold, room_for
from steel.shards.reader import BadSampleError, Sample, ShardReader
from tests.shard_folder import defect_mask, make_shards, rename_shards, small_shards, steel_image

ROOM = 1 << 30


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return small_shards(tmp_path / "shards")


def open_reader(shards: Path, max_bytes: int | None = ROOM) -> ShardReader:
    reader = ShardReader(shards)
    reader.keep_decoded(shards.parent / "node", max_bytes)
    return reader


def assert_right(sample: Sample) -> None:
    assert np.array_equal(sample.image, steel_image(sample.row))
    assert np.array_equal(sample.bitmask, defect_mask(sample.row))


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a sample that is not held is an error."""

    def refuse(*_: object) -> None:
        raise ValueError("decoded")

    monkeypatch.setattr(readers, "decode_image", refuse)
    monkeypatch.setattr(readers, "decode_stored_mask", refuse)


def data_files(shards: Path) -> list[Path]:
    return sorted((shards.parent / "node").rglob("*.decoded"))


def test_what_was_read_once_is_not_decoded_again(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_reader(shards)
    for row in range(14):
        assert_right(first.read(row))
    second = open_reader(shards)
    no_decoding(monkeypatch)
    for reader in (first, second):
        for row in (13, 0, 5, 5, 2, 7):
            assert_right(reader.read(row))


def test_held_images_cannot_be_written(shards: Path) -> None:
    reader = open_reader(shards)
    reader.read(5)
    assert not reader.read(5).image.flags.writeable


@pytest.mark.parametrize("evaluated_first", [True, False])
def test_colour_16_bit_masks_and_reduced_images(
    tmp_path: Path, evaluated_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks are held at the size of the image, reduced already; those at the original size are decoded each time."""
    images = [steel_image(n, 20 + n, 30, 3) for n in range(3)]
    masks = [np.zeros((40 + 2 * n, 60), np.uint16) for n in range(3)]
    masks[1][8:20, 10:40] = 1 << 9
    root = make_shards(tmp_path / "s", images, masks, num_classes=10)
    reduced = [np.zeros((20 + n, 30), np.uint16) for n in range(3)]
    reduced[1][4:10, 5:20] = 1 << 9
    reader = open_reader(root)
    for row in range(3):
        reader.read(row, original_mask=evaluated_first)
    monkeypatch.setattr(readers, "decode_image", None)

    def check(expected: list[np.ndarray], *, original: bool) -> None:
        for row in range(3):
            sample = reader.read(row, original_mask=original)
            assert np.array_equal(sample.image, images[row])
            assert sample.bitmask.dtype == np.uint16
            assert np.array_equal(sample.bitmask, expected[row])

    check(masks, original=True)
    no_decoding(monkeypatch)
    check(reduced, original=False)


def test_a_mask_that_packs_badly_is_decoded_and_its_image_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 8, (300, 400), np.uint8)
    root = make_shards(tmp_path / "s", [steel_image(0, 300, 400)], [noise])
    reader = open_reader(root)
    reader.read(0)
    monkeypatch.setattr(readers, "decode_image", None)
    assert np.array_equal(reader.read(0).bitmask, noise)
    assert np.array_equal(reader.read(0).image, steel_image(0, 300, 400))


def test_shards_whose_names_differ_in_an_escape_alone_have_files_of_their_own(tmp_path: Path) -> None:
    sizes = [(32, 64)] * 4 + [(200, 200)] * 2  # each of the last would cover all of the first
    images = [steel_image(n, *size) for n, size in enumerate(sizes)]
    root = make_shards(tmp_path / "s", images, [defect_mask(n, *size) for n, size in enumerate(sizes)])
    rename_shards(root, ["a/b.tar", "a%2Fb.tar"])
    reader = open_reader(root)
    for row in (0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3):
        assert np.array_equal(reader.read(row).image, images[row])
    assert len(data_files(root)) == 2


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["record", "image", "mask"])
def test_every_damaged_byte_is_noticed_and_mended(shards: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_reader(shards)
    for row in range(4):
        first.read(row)
    file = data_files(shards)[0]
    image_starts, mask_starts = first.decoded._layout(0)  # type: ignore[union-attr]
    row = 1  # which is marked
    offset = {"record": row * 16 + 4, "image": int(image_starts[row]) + 700, "mask": int(mask_starts[row]) + 3}[place]
    with file.open("r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)
        handle.seek(offset)
        handle.write(bytes([byte[0] ^ 64]))
    second = open_reader(shards)
    assert_right(second.read(row))
    no_decoding(monkeypatch)
    assert_right(second.read(row))
    assert_right(second.read(3))


def test_a_file_of_another_size_is_left_alone(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_reader(shards).read(0)
    file = data_files(shards)[0]
    os.truncate(file, file.stat().st_size + 4096)
    reader = open_reader(shards)
    for row in range(14):
        assert_right(reader.read(row))
    assert len(caplog.records) == 1
    assert "no file of this cache" in caplog.text


def test_a_damaged_shard_is_still_named(shards: Path) -> None:
    reader = open_reader(shards)
    tar = shards / "shard-000000.tar"
    at = reader.samples.place(2)
    data = bytearray(tar.read_bytes())
    data[at.image_offset + 60] ^= 1
    tar.write_bytes(data)
    with pytest.raises(BadSampleError, match=r"images/0002\.png"):
        reader.read(2)
    with pytest.raises(BadSampleError, match=r"images/0002\.png"):
        reader.read(2)


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["full", "short"])
def test_a_full_disk_is_said_once_and_costs_decoding(
    shards: Path, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = open_reader(shards)
    reader.read(0)
    real = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        if fault == "short":
            return real(handle, memoryview(data)[:100], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        for row in [*range(14), *range(14)]:
            assert_right(reader.read(row))
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "No space left on device; what is not held there yet is decoded each time"
    ]
    monkeypatch.undo()
    other = open_reader(shards)
    no_decoding(monkeypatch)
    assert_right(other.read(0))


def test_workers_share_what_was_said_of_a_full_disk(shards: Path) -> None:
    reader = open_reader(shards)

    def fail() -> None:
        reader.decoded._end(OSError(errno.ENOSPC, "full"))  # type: ignore[union-attr]

    child = multiprocessing.get_context("fork").Process(target=fail)
    child.start()
    child.join()
    reader.read(0)
    assert data_files(shards) == []


# --- many processes ------------------------------------------------------------------------------------------------


def _read_all(shards: Path, seed: int) -> None:
    reader = open_reader(shards)
    for row in np.random.default_rng(seed).permutation(np.repeat(np.arange(14), 20)):
        assert_right(reader.read(int(row)))


def test_processes_at_the_same_samples(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_read_all, args=(shards, seed)) for seed in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    reader = open_reader(shards)
    no_decoding(monkeypatch)
    for row in range(14):
        assert_right(reader.read(row))


def _read_until_killed(shards: Path) -> None:
    real = os.pwrite

    def slow(handle: int, data: bytes, offset: int) -> int:
        half = len(data) // 2
        real(handle, memoryview(data)[:half], offset)
        time.sleep(0.002)
        return half + real(handle, memoryview(data)[half:], offset + half)

    os.pwrite = slow  # type: ignore[assignment]
    reader = open_reader(shards)
    for row in range(14):
        reader.read(row)
    time.sleep(60)


@pytest.mark.parametrize("seconds", [0.03, 0.05, 0.08])
def test_a_writer_killed_in_the_middle_leaves_nothing_wrong(shards: Path, seconds: float) -> None:
    child = multiprocessing.get_context("fork").Process(target=_read_until_killed, args=(shards,))
    child.start()
    time.sleep(seconds)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    reader = open_reader(shards)
    for row in range(14):
        assert_right(reader.read(row))
        assert_right(reader.read(row))


def test_a_reader_sent_to_another_process_goes_on(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader(shards)
    reader.read(5)
    other = pickle.loads(pickle.dumps(reader))
    no_decoding(monkeypatch)
    assert_right(other.read(5))


# --- room ----------------------------------------------------------------------------------------------------------


def test_a_bound_is_kept_by_whole_shards(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A page for the records; one for each of 4 images and for each of 2 and of 3 that are marked.
    bound = (1 + 4 + 2 + 1 + 4 + 3) * 4096
    assert open_reader(shards, max_bytes=bound - 1).decoded.num_samples == 4  # type: ignore[union-attr]
    reader = open_reader(shards, max_bytes=bound)
    assert reader.decoded is not None
    assert reader.decoded.num_samples == 8
    for row in range(14):
        assert_right(reader.read(row))
    assert reader.decoded.held_bytes <= bound
    assert len(data_files(shards)) == 2
    no_decoding(monkeypatch)
    assert_right(reader.read(7))
    with pytest.raises(BadSampleError):
        reader.read(8)


def test_sets_that_nobody_uses_make_room(tmp_path: Path) -> None:
    sets = [small_shards(tmp_path / f"set{n}", num=14 + n) for n in range(3)]
    sizes = []
    for root in sets[:2]:
        reader = open_reader(root)
        for row in range(14):
            reader.read(row)
        assert reader.decoded is not None
        sizes.append(reader.decoded.num_bytes)
        folder = reader.decoded.folder
        if root is sets[0]:
            oldest = folder
            del reader
    assert oldest.exists()
    third = open_reader(sets[2], max_bytes=sum(sizes))  # the second set is in use, by `reader`
    assert third.decoded is not None
    assert not oldest.exists()
    assert folder.exists()
    assert 0 < third.decoded.num_samples < 16
    assert reader.read(3).row == 3


def test_who_looks_at_the_same_time_finds_the_same_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks whether a set is used is no use of it."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".in-use").touch()
        (tmp_path / name / "shard.decoded").write_bytes(bytes(4096))
    handle = hold(tmp_path / "second")
    used = disk_bytes(tmp_path / "second")
    rooms, lock = set[int](), fcntl.flock

    def lock_for_longer(file: IO[bytes] | int, how: int) -> None:
        lock(file, how)
        time.sleep(0.01)

    def look() -> None:
        rooms.add(room_for(tmp_path, tmp_path / "own", 10**6))

    monkeypatch.setattr(fcntl, "flock", lock_for_longer)
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(handle)
    assert rooms == {10**6 - used}


def test_a_trial_has_the_room_of_a_set_and_takes_it_from_no_other(tmp_path: Path) -> None:
    """Beside the set's own cache, which a run may be using; once let go it makes way like any."""
    root, other = small_shards(tmp_path / "set"), small_shards(tmp_path / "other", num=15)
    for row in range(8):
        open_reader(other).read(row)
    (unused,) = {path.parent for path in data_files(root)}
    first = open_reader(root)
    first.read(0)
    assert first.decoded is not None
    own, bound = first.decoded.folder, first.decoded.num_bytes

    reader = ShardReader(root)
    trial = reader.keep_decoded(root.parent / "node", bound, trial="trial")
    assert trial.folder == own.with_name("trial")
    assert (trial.num_bytes, trial.num_samples) == (bound, 14)
    assert_right(reader.read(13))
    assert own.exists() and unused.exists()
    assert len(list(trial.folder.glob("*.decoded"))) == 1

    reader.decoded = first.decoded = None
    del trial
    open_reader(root, max_bytes=bound)
    assert own.exists()
    assert not own.with_name("trial").exists() and not unused.exists()


def test_of_samples_that_are_large_once_decoded_few_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = np.full((128, 512), 90, np.uint8)
    root = make_shards(tmp_path / "shards", [smooth] * 2, [defect_mask(0, 128, 512)] * 2)
    monkeypatch.setattr(readers, "_BYTES_AHEAD", 3 * smooth.size)
    assert ShardReader(root).num_ahead() > 3
    assert 1 <= open_reader(root).num_ahead() < 3


@pytest.mark.parametrize("library", [cv2, simplejpeg, PIL])
def test_another_decoder_has_a_set_of_its_own(
    shards: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_reader(shards).read(0)
    monkeypatch.setattr(library, "__version__", "another")
    open_reader(shards).read(0)
    assert len(data_files(shards)) == 2


def test_what_is_held_is_asked_for_there_until_it_has_been_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_reader(shards)
    for row in (0, 1, 5):
        first.read(row)
    asked: list[tuple[str, int]] = []

    def note(handle: int, offset: int, length: int) -> None:
        asked.append((Path(os.readlink(f"/proc/self/fd/{handle}")).name, length))

    monkeypatch.setattr(decoded_cache, "ask_for", note)
    monkeypatch.setattr(shard_files, "ask_for", note)
    second = open_reader(shards)
    second.ask_for([0, 2, 5, 9])
    height, width = steel_image(0).shape
    names = ["shard-000000.tar.decoded", "shard-000000.tar", "shard-000001.tar.decoded", "shard-000002.tar"]
    assert [name for name, _ in asked] == names
    for _, length in asked[::2]:
        assert height * width <= length < height * width + 4096 + height * width // 8
    second.read(0)
    second.ask_for([0])
    assert len(asked) == 4  # in memory already
    (record_of_5,) = (file for file in data_files(shards) if file.name == "shard-000001.tar.decoded")
    with record_of_5.open("r+b") as file:
        file.seek(16)
        file.write(bytes(16))
    second.ask_for([5])
    assert asked[-1][0] == "shard-000001.tar"  # damaged counts as not held
