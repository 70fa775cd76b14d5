"""Runs a program to its end: how long it took, how it ended, and what its largest process held."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.speed.worker import ROOT

PATIENCE = 60.0
"""Seconds that a program has for its end after an interruption."""


class Ended(NamedTuple):
    """A program that has run."""

    code: int
    """Its exit code; below 0, the signal that ended it."""
    seconds: float
    """From its start to its end."""
    peak_bytes: int
    """Of the host's memory, of its largest process."""


def run(line: Sequence[str], log: Path | None = None, **environment: str) -> Ended:
    """Run `line` in the checkout; what interrupts this process ends it, and all that it has started, too.

    Args:
        line: of the command.
        log: takes all that it says, anew; standard error when None.
        environment: variables besides those of this process.
    """
    begun = time.perf_counter()
    with _started(line, log, os.environ | environment) as process:
        _, status, usage = os.wait4(process.pid, 0)  # and not `wait`, which does not tell what was used
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, time.perf_counter() - begun, 1024 * usage.ru_maxrss)


@contextmanager
def _started(
    line: Sequence[str], log: Path | None, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own the terminal's Ctrl-C is passed on once, by us, and no process is left behind.
    with open(2 if log is None else log, "wb", closefd=log is not None) as said:
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)
        try:
            yield process
        finally:
            if process.returncode is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    finally:  # a second Ctrl-C waits no longer
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
