"""`train.fit` on a disk that takes some steps' time to write a state: slow_disk_fit.py STEPS ARGUMENT...

Other work on the machine changes nothing about that: a write is held until training has taken so many steps more, or
stands still.
"""

import sys
import threading
from pathlib import Path
from typing import Any

from steel.errors import run_program
from train.engine import state_writer
from train.engine.step import TrainingState
from train.fit import main

STANDSTILL_S = 3.0
"""Longer than a step of a test takes anywhere."""


class SlowDisk:
    """Holds each write for some steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._taken = 0
        self._changed = threading.Condition()

    def install(self) -> None:
        """For the rest of the process."""
        step, write = TrainingState.step, state_writer.write_state

        def counted(training: TrainingState, *arguments: Any) -> Any:
            sums = step(training, *arguments)
            with self._changed:
                self._taken += 1
                self._changed.notify_all()
            return sums

        def slow(*arguments: Any) -> Path:
            self._hold()
            return write(*arguments)

        TrainingState.step, state_writer.write_state = counted, slow  # type: ignore[method-assign]

    def _hold(self) -> None:
        with self._changed:
            last = self._taken + self._steps
            while self._taken < last and self._changed.wait(STANDSTILL_S):
                pass


if __name__ == "__main__":
    SlowDisk(int(sys.argv[1])).install()
    sys.exit(run_program(lambda: main(sys.argv[2:])))
