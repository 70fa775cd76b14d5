"""Reading ahead: whole files are in the system's memory afterwards."""

import os
from pathlib import Path

import pytest

from steel.shards.page_cache import read_ahead

SIZES = 20 << 20, (5 << 20) + 1
"""Of two files: more than is asked for at a time, and one byte beyond a request."""


def resident(path: Path, offset: int) -> bool:
    """Whether a byte can be read without waiting for the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def test_files_are_in_memory_to_their_ends_and_a_missing_one_is_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / f"shard-{number}.tar" for number in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(bytes(size))
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    try:
        if resident(paths[0], SIZES[0] // 2):
            pytest.skip("this file system keeps its files in memory")
    except OSError as error:
        pytest.skip(f"this file system cannot tell: {error.strerror}")
    read_ahead([paths[0], tmp_path / "none.tar", paths[1]])
    for path, size in zip(paths, SIZES, strict=True):
        assert all(resident(path, offset) for offset in (*range(0, size, 4096), size - 1)), path
