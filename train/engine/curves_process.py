"""A run's curves: drawn beside training by a process of its own, as they take a second and more; at the end, here."""

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from steel.errors import InputError
from steel.reports.plots import plot_history
from steel.tracking.history import History

logger = logging.getLogger("train.fit")

EVERY_S = 60.0
"""Seconds between the starts of two drawings, at least: on a small machine they take a core from training."""
_PATIENCE_S = 10.0
"""How long a drawing under way is waited for at the end of a run."""


class CurvesProcess:
    """Draws the curves of a history; no picture is worth a run, so what goes wrong is a warning.

    During training nothing but starting and asking is done in the caller's thread. The process is out of reach of a
    terminal's Ctrl-C, which it would answer with a traceback, and ends by itself; one that hangs is ended when the next
    drawing is due.
    """

    def __init__(self, history: History, curves: Path) -> None:
        self._history = history
        self._curves = curves
        self._staging = curves.with_name(f".{curves.name}.unfinished")
        """Of the process, which leaves there what it has begun where it is killed."""
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        """What the process says goes to a file: a pipe that nobody reads would hold it up when it is full."""
        self._next_start = 0.0

    def draw_beside(self) -> None:
        """Start to draw all that has been recorded, unless a drawing was started not long ago."""
        if self._process is not None and self._process.poll() is not None:
            self._warn_of(self._take_in(self._process))
        if time.monotonic() < self._next_start:
            return
        if self._process is not None:
            self._process.kill()
            self._warn_of(self._take_in(self._process))
        self._next_start = time.monotonic() + EVERY_S
        paths = (self._history.path, self._curves, self._staging)
        command = [sys.executable, "-m", "train.engine.draw_curves", *map(str, paths)]
        try:
            self._staging.mkdir(exist_ok=True)
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open until `_take_in`
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                start_new_session=True,
            )
        except OSError as error:
            self._warn_of(error)

    def draw_at_last(self, *, may_warn: bool = True) -> None:
        """Draw all that has been recorded, and return when that is done."""
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._take_in(self._process)  # whatever it says: all is drawn anew
        shutil.rmtree(self._staging, ignore_errors=True)  # an attempt that was killed may have left it
        try:
            plot_history(self._history.records(), self._curves)
        except (OSError, InputError) as error:
            self._warn_of(error if may_warn else None)

    def _take_in(self, process: "subprocess.Popen[bytes]") -> str | None:
        """Why a drawing that has ended or is killed came to nothing; None where it did not."""
        assert self._said is not None
        code = process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._said.close()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._process = self._said = None
        if not code:
            return None
        return lines[-1] if lines else f"its process ended with {code}"

    def _warn_of(self, why: object) -> None:
        if why is not None:
            logger.warning("%s not drawn: %s", self._curves, why)
