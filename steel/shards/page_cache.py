"""What the system holds of files in memory."""

import os

_REQUEST = 512 << 10
"""Bytes asked for at a time: the system cuts longer requests short."""


def ask_for(handle: int, offset: int, length: int) -> None:
    """Have bytes of a file brought into the system's memory, without waiting for them.

    They are asked for and not read, which leaves the processor to others. Some file systems take no notice, and some
    systems have no such call.

    Args:
        handle: of the open file.
        offset: of the first byte.
        length: in bytes; 0 asks for nothing, although the system's own call would mean all.

    Raises:
        OSError: not a file.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for start in range(offset, offset + length, _REQUEST):
        os.posix_fadvise(handle, start, min(_REQUEST, offset + length - start), os.POSIX_FADV_WILLNEED)
