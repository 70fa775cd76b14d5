"""Take files out of the system's page cache, for reads from a cold disk."""

import os
from pathlib import Path


def drop_folder(folder: str) -> None:
    """Drop all files in and below a folder from the page cache.

    Raises:
        RuntimeError: the system kept some; a measurement would be no cold one.
    """
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)  # only pages that are on the disk can be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    kept = [path.name for path in files if _is_cached(path)]
    if kept:
        raise RuntimeError(f"{len(kept)} of {len(files)} files of {folder} stayed in the page cache, as {kept[0]}")


def _is_cached(path: Path) -> bool:
    """Whether the middle of a file can be read without waiting for the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(1)], path.stat().st_size // 2, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
