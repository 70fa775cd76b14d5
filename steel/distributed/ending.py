"""How a rank leaves a job that has failed: it says why, records it, tells the other ranks, and goes, in this order.

Nothing that waits for other ranks comes before: they sit in a collective, and would be waited for in vain. In
particular the process group of a failed job is not destroyed: for NCCL that waits until the peers come out of theirs.
"""

import atexit
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from tqdm import tqdm

from steel.distributed.heartbeat import Heartbeat
from steel.errors import LAST_WORD_S, LostRankError, SharedError, report, told_stop


class Ending:
    """Ends this process's part in a failed job, once: the main thread by an error of its own, or the heartbeat's thread
    by the word or the silence of another rank."""

    def __init__(self, rank: int) -> None:
        self.code = 0
        """The exit code, once the job has failed."""
        self.heartbeat: Heartbeat | None = None
        """Of a job of several ranks."""
        self._rank = rank
        self._record: Callable[[str], None] = lambda reason: None
        self._shared = False
        self._begun_by: int | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def recording(self, record: Callable[[str], None] | None) -> Iterator[None]:
        """Let `record` be told why the job has failed, should it fail during the block; None changes nothing."""
        former = self._record
        self._record = record or former
        try:
            yield
        finally:
            self._record = former

    def fail(self, error: BaseException) -> None:
        """Say, record and tell the others that `error` ends this rank's part; later errors are its consequences."""
        if not self._begin():
            return
        code = report(error)
        if code is None and self.heartbeat is not None:  # else the interpreter shows it
            with contextlib.suppress(OSError):
                traceback.print_exception(error)
        self.code = 1 if code is None else code
        self._shared = isinstance(error, SharedError)
        everybodys = isinstance(error, SharedError | LostRankError)
        reason = _reason(error, is_defect=code is None)
        self._note(reason if everybodys else f"rank {self._rank}: {reason}")
        if self.heartbeat is None:
            return
        if self._shared:
            self.heartbeat.leave()
        elif everybodys:
            self.heartbeat.leave(reason, self.code)
        else:
            self.heartbeat.leave(f"rank {self._rank} ({self.heartbeat.name}) failed: {reason}", self.code)

    def give_up(self, failure: str, code: int) -> None:
        """End the process, as `failure` of another rank ends the job; one rank of each machine repeats it."""
        if not self._begin():
            return
        assert self.heartbeat is not None
        self.code = code
        try:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                with tqdm.external_write_mode(file=sys.stderr):  # the main thread may show a bar
                    print(f"error: {failure}; ending the job", file=sys.stderr, flush=True)  # noqa: T201
            self._note(failure)
            self.heartbeat.leave(failure, code)
        finally:
            self.leave()

    def leave(self) -> NoReturn:
        """End the process at once; only the other ranks' hearing of it is waited for, five beats at most."""
        assert self.heartbeat is not None
        if self._shared and self._rank != 0:  # a launcher ends the job with the first rank that ends
            self.heartbeat.linger([0], LAST_WORD_S)
        elif not self._shared:
            self.heartbeat.linger()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(self.code)

    def _begin(self) -> bool:
        """Whether this thread is the one to end the job, for the first time."""
        with self._lock:
            first = self._begun_by is None
            self._begun_by = self._begun_by or threading.get_ident()
        if self._begun_by != threading.get_ident() and threading.current_thread() is threading.main_thread():
            threading.Event().wait()  # the heartbeat's thread is about to end this process
        return first

    def _note(self, reason: str) -> None:
        with contextlib.suppress(Exception):  # what cannot be recorded must still be told
            self._record(reason)


def end_program(code: int) -> NoReturn:
    """`sys.exit(code)`; where this process was one of several ranks, without taking the interpreter apart first.

    Threads of gloo outlive the process group once DDP has wrapped a network. One that lets go of a tensor of Python's
    while the interpreter is being taken apart aborts the process (`terminate called without an active exception`), and
    with it a job that was done. What others have registered with `atexit` is done as ever.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    atexit._run_exitfuncs()  # what multiprocessing does in its children, which end in the same way
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _reason(error: BaseException, *, is_defect: bool) -> str:
    if isinstance(error, KeyboardInterrupt):
        return told_stop(error)
    return f"{type(error).__name__}: {error}" if is_defect else str(error)
