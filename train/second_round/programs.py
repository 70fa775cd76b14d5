"""Programs that another one starts, one after another, each in a process of its own, as a user would start them."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from types import FrameType

from steel.distributed.launcher import SIGNALS

_PR_SET_PDEATHSIG = 1


class ProgramsEnded(Exception):
    """The programs to come are not to be started: one has failed, or a signal has come."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        """The exit code of the last one."""


class Programs:
    """Starts programs and hands on to the one that runs what signals come; none is started after a signal.

    On Linux a program does not outlive this process, not even where that is killed: it would go on writing while the
    same command, given again, starts it anew. Nor does it outlive the thread that called `run`.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The last signal that came."""
        self._running: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def handing_on(self) -> Iterator["Programs"]:
        """Take the signals inside the block and put the former handlers back after it; what is ignored, as SIGHUP is
        under nohup, stays so.
        """
        numbers = [signal.Signals[name] for name in SIGNALS.split(",")]
        heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        former = {number: signal.signal(number, self._hand_on) for number in heeded}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def run(self, module: str, words: Sequence[str], *, fine: Collection[int] = (0,)) -> None:
        """Run `python -m MODULE WORD...` to its end.

        Args:
            module: a program.
            words: its command line.
            fine: exit codes after which the next program may start.

        Raises:
            ProgramsEnded: another exit code, 128 + N where signal N ended it; or a signal came, whatever the code, 0
                where it came before.
        """
        if self.received is not None:
            raise ProgramsEnded(0)
        # In a session of its own, as a terminal tells all of a session of Ctrl-C: it would be told twice.
        line = [sys.executable, "-m", module, *words]
        dying = functools.partial(_die_with, os.getpid(), ctypes.CDLL(None)) if sys.platform == "linux" else None
        with subprocess.Popen(line, start_new_session=True, preexec_fn=dying) as self._running:
            if self.received is not None:  # while there was nothing yet to hand it on to
                self._running.send_signal(self.received)
            code = self._running.wait()
        self._running = None
        if code not in fine or self.received is not None:
            raise ProgramsEnded(code if code >= 0 else 128 - code)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._running is not None:
            self._running.send_signal(number)


def _die_with(parent: int, libc: ctypes.CDLL) -> None:
    """Have the kernel kill this process when `parent` ends; called between fork and exec.

    The programs' own processes see to themselves: workers and ranks watch for whoever started them.
    """
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it has ended before it was asked for
        os._exit(1)
