"""Reading ahead: the whole file is in the system's memory afterwards."""

import os
from pathlib import Path

import pytest

from steel.shards.page_cache import read_ahead

SIZE = 5 << 20


def resident(path: Path, offset: int) -> bool:
    """Whether a byte can be read without waiting for the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def test_a_file_is_in_memory_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(bytes(SIZE))
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    try:
        if resident(path, SIZE // 2):
            pytest.skip("this file system keeps its files in memory")
    except OSError as error:
        pytest.skip(f"this file system cannot tell: {error.strerror}")
    read_ahead(path)
    assert all(resident(path, offset) for offset in range(0, SIZE, 4096))


def test_a_missing_file_is_left_to_whoever_needs_it(tmp_path: Path) -> None:
    read_ahead(tmp_path / "none.tar")
