"""How programs start: sooner, as Python's garbage collector need not look at everything, and to be interrupted."""

import gc
import os
import signal
import sys
import threading
import time
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
    Anywhere else it is a KeyboardInterrupt, as ever. For a program's main thread; where Ctrl-C is ignored, as in what a
    script has put into the background, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def program_ends_at_once() -> None:
    """The same from here on, where Python is just starting a program by `-m`: for the package that holds programs,
    which is imported before them; what they import comes before their own first line of work.
    """
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        os.write(2, b"interrupted\n")
        os._exit(130)
    raise KeyboardInterrupt


class Terminated(KeyboardInterrupt):
    """SIGTERM, to be taken as Ctrl-C is."""

    CODE = 128 + signal.SIGTERM
    """The exit code of a program that it ends, as a shell has it."""

    def __str__(self) -> str:
        return super().__str__() or "stopped by SIGTERM"


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM is an exception inside the block, so that what is half-written goes; by itself it would end the process
    then and there. In an import it still does, for the reasons of `imports_end_at_once`, and where it comes again.

    Nothing changes where SIGTERM is handled or ignored already, whoever handles it in the block has it, and so has the
    launcher of a job of several ranks: one that waits for another in a collective would not hear of an exception.
    """
    is_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    is_alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not (is_main and is_alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL):
        yield
        return
    first: float | None = None

    def stop(_: int, frame: FrameType | None) -> None:
        nonlocal first
        if first is None and _is_importing(frame):
            os.write(2, f"{Terminated()}\n".encode())
            os._exit(Terminated.CODE)
        if first is None:
            first = time.monotonic()
            raise Terminated
        if time.monotonic() - first > _SAME_STOP_S:
            os._exit(Terminated.CODE)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interruptions_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come while the block runs are had when it ends, where Python would raise an exception in
    the midst of it; for what is short and must not be half done. The exception is the main thread's, whichever thread
    the system tells: in the others nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    former = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in former:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for once in dict.fromkeys(came):
            signal.raise_signal(once)


_SAME_STOP_S = 1.0
"""Signals so soon after the first mean the same stop: `timeout` tells the process, and then its group."""


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
