"""What the system holds of files in memory."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_REQUEST = 512 << 10
"""Bytes asked for at a time: the system cuts longer requests short."""
_IN_FLIGHT = 32
"""Requests that are not waited for: disks are fastest with many, but what others read queues up behind them."""


def read_ahead(paths: Sequence[Path]) -> None:
    """Bring files into the system's memory, one after another and front to back, as disks are fastest.

    They are asked for and not read, which leaves the processor to others; some file systems take no notice. Returns
    when all of them are there. Errors are left to whoever needs the file.
    """
    pieces = [(path, offset) for path in paths for offset in range(0, _size(path), _REQUEST)]
    for number, piece in enumerate(pieces):
        _ask_for(*piece)
        if number >= _IN_FLIGHT:
            _wait_for(*pieces[number - _IN_FLIGHT])
    for piece in pieces[-_IN_FLIGHT:]:
        _wait_for(*piece)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _ask_for(path: Path, offset: int) -> None:
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), offset, _REQUEST, os.POSIX_FADV_WILLNEED)


def _wait_for(path: Path, offset: int) -> None:
    """Until its last bytes are there; the others were read before them."""
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        file.seek(min(offset + _REQUEST, _size(path)) - 1)
        file.read(1)
