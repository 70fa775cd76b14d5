"""The room that decoded sets take on a node's disk: which are in use, and which make way.

A set is a folder with a file `.in-use`, locked by every process that uses it and never removed by one that cannot have
that lock for itself. Sets that nobody uses make room, the one used longest ago first. Whoever looks which are used has
to have that lock for a moment, and so holds that of the folder of all sets, lest others that look take this for use.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from steel import storage

_IN_USE = ".in-use"


def hold(folder: Path) -> int:
    """Make a set's folder if need be and keep it from removal while the descriptor that comes back is open, in this
    process or in one forked from it.

    Raises:
        OSError: the folder cannot be made or written.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_nlink:  # else it was removed while this process waited for the lock
            os.utime(handle)
            return handle
        os.close(handle)


def disk_bytes(folder: Path) -> int:
    """What the files of a set take on the disk, holes left out."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_blocks * 512
    return total


def room_for(base: Path, own: Path, max_bytes: int | None) -> int:
    """Bytes that the set `own` may take once those that nobody uses are gone.

    Args:
        base: folder of all sets.
        own: one of them.
        max_bytes: what all sets may take together; half of what they and the free space come to when None.
    """
    with _alone(base):
        others = _others(base, own)
        used = sum(size for folder, size in others.items() if _is_used(folder))
    return _limit(base, own, others, max_bytes) - used


def make_room(base: Path, own: Path, needed: int, max_bytes: int | None) -> None:
    """Remove sets that nobody uses until `needed` bytes fit for `own`; see `room_for`."""
    with _alone(base):
        others = _others(base, own)
        limit = _limit(base, own, others, max_bytes)
        for folder in list(others):
            if needed + sum(others.values()) <= limit:
                break
            with contextlib.suppress(BlockingIOError, FileNotFoundError), open(folder / _IN_USE, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                del others[folder]


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Keep other processes from looking which sets are used; a folder can be locked without a file in it."""
    handle = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _limit(base: Path, own: Path, others: dict[Path, int], max_bytes: int | None) -> int:
    if max_bytes is not None:
        return max_bytes
    return (disk_bytes(own) + sum(others.values()) + (storage.free_bytes(base) or 0)) // 2


def _others(base: Path, own: Path) -> dict[Path, int]:
    """The other sets and what each takes, the one used longest ago first."""
    used_at: dict[Path, int] = {}
    for folder in base.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if folder != own:
                used_at[folder] = (folder / _IN_USE).stat().st_mtime_ns
    return {folder: disk_bytes(folder) for folder in sorted(used_at, key=used_at.__getitem__)}


def _is_used(folder: Path) -> bool:
    try:
        with open(folder / _IN_USE, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
