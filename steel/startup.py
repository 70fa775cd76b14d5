"""How programs start: sooner, as Python's garbage collector need not look at everything, and to be interrupted."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while the block runs: for imports, whose objects stay.

    Those of torch, smp and timm are a quarter of a million, which the collector would go through again and again while
    they grow: a seventh of the time. Afterwards they count as old, and so are the last to be looked at.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # which puts what was frozen among the oldest
        if was_enabled:
            gc.enable()


@contextmanager
def imports_end_at_once() -> Iterator[None]:
    """Ctrl-C that falls into an import ends the program then and there, with a word and exit code 130.

    As an exception it would come out of the middle of a library: of torch's C++ as an abort; of what Python calls when
    it drops a module's lock not at all, with the lock of all imports held for good, on which every thread then waits.
    Anywhere else it is a KeyboardInterrupt, as ever. For a program's main thread.
    """
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt
