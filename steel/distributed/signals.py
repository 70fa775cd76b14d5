"""Stop signals: what schedulers, launchers and users send when a job is to save and leave."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator


class StopSignals:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag that the loop reads; a second signal ends the process at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    SAME_S = 1.0
    """Signals so soon after the first mean the same stop: a scheduler tells all processes of a job, and the launcher
    among them passes it on."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._first = 0.0

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Handle the signals inside the block and put the former handlers back after it.

        A thread takes them, from a pipe that the interpreter fills at once: a handler would wait until the main thread
        is back from whatever it waits for, such as a collective that never ends.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        listener = threading.Thread(target=self._listen, args=(reading,), name="stop-signals", daemon=True)
        listener.start()
        former_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        former = {number: signal.signal(number, lambda number, frame: None) for number in self.SIGNALS}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former_pipe)
            os.write(writing, b"\0")
            listener.join()
            os.close(reading)
            os.close(writing)

    def _listen(self, pipe: int) -> None:
        while number := os.read(pipe, 1)[0]:
            if number in self.SIGNALS:
                self._take(signal.Signals(number))

    def _take(self, received: signal.Signals) -> None:
        now = time.monotonic()
        if self.name is None:
            self.name, self._first = received.name, now
        elif now - self._first > self.SAME_S:
            os._exit(128 + received)

    @property
    def received(self) -> bool:
        """Whether a stop signal has come."""
        return self.name is not None
