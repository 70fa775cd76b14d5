"""Take files out of the system's page cache, for reads from a cold disk."""

import os
import time
from pathlib import Path

_ATTEMPTS = 10
"""Pages that another process has just touched cannot be dropped at once."""


def drop_folder(folder: str) -> None:
    """Drop all files in and below a folder from the page cache.

    Raises:
        RuntimeError: the system kept some; a measurement would be no cold one.
    """
    files = kept = [path for path in Path(folder).rglob("*") if path.is_file()]
    for _ in range(_ATTEMPTS):
        for path in kept:
            _drop(path)
        kept = [path for path in kept if _is_cached(path)]
        if not kept:
            return
        time.sleep(0.2)
    raise RuntimeError(f"{len(kept)} of {len(files)} files of {folder} stayed in the page cache, as {kept[0].name}")


def _drop(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)  # only pages that are on the disk can be dropped
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _is_cached(path: Path) -> bool:
    """Whether the middle of a file can be read without waiting for the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(1)], path.stat().st_size // 2, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
