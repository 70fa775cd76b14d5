"""What the system holds of files in memory."""

import contextlib
import os

_CHUNK = 1 << 20


def read_ahead(path: str | os.PathLike[str]) -> None:
    """Bring a file into the system's memory, front to back, as disks are fastest.

    It is read, not only asked for: the system cuts longer requests (`posix_fadvise`) short, and some file systems have
    none. Errors are left to whoever needs the file.
    """
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        chunk = bytearray(_CHUNK)
        while file.readinto(chunk):
            pass
