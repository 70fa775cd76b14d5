"""Asking for bytes: they are in the system's memory soon after, and others are not."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steel.shards.page_cache import ask_for

SIZE = 20 << 20


def resident(handle: int, offset: int) -> bool:
    """Whether a byte can be read without waiting for the disk."""
    try:
        return os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[int]:
    """A file that is on the disk alone."""
    path = tmp_path / "shard.tar"
    path.write_bytes(bytes(SIZE))
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        if resident(handle, SIZE // 2):
            pytest.skip("this file system keeps its files in memory")
        yield handle
    except OSError as error:
        pytest.skip(f"this file system cannot tell: {error.strerror}")
    finally:
        os.close(handle)


def test_all_that_is_asked_for_comes_however_long(cold: int) -> None:
    start, length = 3 << 20, (5 << 20) + 1
    ask_for(cold, start, length)
    wanted = {*range(start, start + length, 4096), start + length - 1}
    missing = wanted
    for _ in range(1000):
        missing = {offset for offset in missing if not resident(cold, offset)}
        if not missing:
            break
        time.sleep(0.01)
    if missing == wanted:
        pytest.skip("this file system takes no notice")
    assert not missing
    assert not resident(cold, SIZE - 1)


def test_nothing_is_asked_for_by_no_bytes(cold: int) -> None:
    ask_for(cold, 0, 0)
    time.sleep(0.1)
    assert not resident(cold, 0)


def test_a_closed_file_is_an_error() -> None:
    with pytest.raises(OSError, match="descriptor"):
        ask_for(-1, 0, 1)


def test_a_system_without_the_call_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    ask_for(-1, 0, 1)
