"""Ctrl-C ends tasks that run: each asks between its images whether to stop, as a whole shard may take many minutes."""

import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from multiprocessing.connection import Connection

STOP = threading.Event()
"""Set where the tasks of this process are to end."""


def end_if_stopped() -> None:
    """Called by a task wherever it may end, with nothing but what it would make anew half done.

    Raises:
        CancelledError: it is to end.
    """
    if STOP.is_set():
        raise CancelledError


def stop_at_end_of(pipe: Connection) -> None:
    """Make a worker process stop when its parent closes the other end of a pipe, through which nothing is sent.

    Of all that processes share this is what one that was killed cannot leave locked.
    """

    def wait() -> None:
        with suppress(EOFError, OSError):
            pipe.recv_bytes()
        STOP.set()

    threading.Thread(target=wait, daemon=True).start()
