"""How fast a disk writes and reads, by a short trial past the page cache."""

import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_MIB = 2**20


class DiskSpeed(NamedTuple):
    """Bytes per second, one stream."""

    write: float
    read: float


def measure_disk(folder: Path, num_bytes: int) -> DiskSpeed:
    """Write so many bytes in a file of `folder` without a name, flush them to the disk, and read them back from there.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        block = os.urandom(_MIB)
        start = time.perf_counter()
        for _ in range(num_bytes // _MIB):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        while file.read(_MIB):
            pass
        end = time.perf_counter()
    return DiskSpeed(num_bytes / (written - start), num_bytes / (end - written))
