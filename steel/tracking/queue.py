"""The calls of an experiment tracker, and a queue that keeps a slow or dead one from stopping the training it watches.

A call puts a record in a bounded queue and returns; a daemon thread hands the records to the backend. Records that a
backend does not take are counted and reported once at the end; no exception and no wait reaches the training loop.
`history.jsonl` (see `steel.tracking.history`) is the record that loses nothing.
"""

import functools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np

from steel.tracking.items import Item

logger = logging.getLogger(__name__)

Status = Literal["finished", "interrupted", "failed"]

QUEUE_BYTES = 64 * 2**20
"""Records waiting for the backend beyond this are dropped."""
RECORD_BYTES = 1024
"""What a record without images is taken to weigh in the queue."""
OPEN_SECONDS = 30.0
"""How long `wait_until_open` waits for the backend."""
FINISH_SECONDS = 30.0
"""How long `finish` waits for the backend; a preempted job has little more than this in all."""
ABANDON_SECONDS = 2.0
"""How long an abandoned backend may take to notice and clean up."""
MAX_FAILURES = 5
"""Calls that fail in a row before a backend is given up."""


class Backend(Protocol):
    """What records figures. `step` is the global step, counted over all phases and attempts."""

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Record figures; nested mappings and sequences are flattened to `name/key`, sequences counted from 1."""
        ...

    def show(self, item: Item, step: int) -> None:
        """Record what is more than a figure, as well as the tracker can; nothing where it cannot."""
        ...

    def finish(self, status: Status) -> None:
        """Say how the run ended and close; later calls do nothing."""
        ...


class Tracker(Backend, Protocol):
    """What a training loop calls. Only `wait_until_open` and `finish` wait, a bounded time."""

    def wait_until_open(self) -> None:
        """Wait until the backend is up, or give it up: to be called before any process is forked.

        A backend that starts a process waits for a pipe to close, of which a worker forked meanwhile has an end.
        """
        ...


class NullTracker:
    """Records nothing."""

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Do nothing."""

    def show(self, item: Item, step: int) -> None:
        """Do nothing."""

    def wait_until_open(self) -> None:
        """Do nothing."""

    def finish(self, status: Status) -> None:
        """Do nothing."""


class BackgroundTracker:
    """Hands calls from a daemon thread to a backend: a tracker that works in the call itself, and may fail or hang.

    Args:
        name: the backend's name in messages.
        open_backend: starts the backend; runs in the thread, so it may be slow.
        abandon: lets go of whatever would keep the process from ending, when the backend did not close in time.
        queue_bytes: estimated size of the records that may wait.
        open_seconds: how long `wait_until_open` waits for the backend to start.
        finish_seconds: how long `finish` waits for the backend to take what is left and close.
    """

    def __init__(
        self,
        name: str,
        open_backend: Callable[[], Backend],
        *,
        abandon: Callable[[], None] = lambda: None,
        queue_bytes: int = QUEUE_BYTES,
        open_seconds: float = OPEN_SECONDS,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._name = name
        self._abandon = abandon
        self._queue_bytes = queue_bytes
        self._open_seconds = open_seconds
        self._finish_seconds = finish_seconds
        self._calls: queue.SimpleQueue[tuple[Callable[[Backend], None], int]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._submitted = 0
        self._recorded = 0
        self._problem = ""
        self._opened = threading.Event()
        """The backend is up, or could not start."""
        self._given_up = False
        self._finishing = False
        self._finished = False
        self._thread = threading.Thread(target=self._serve, args=(open_backend,), name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Queue figures."""
        record = flatten(record)
        self._submit(lambda backend: backend.log(record, step), RECORD_BYTES)

    def show(self, item: Item, step: int) -> None:
        """Queue what is more than a figure."""
        self._submit(lambda backend: backend.show(item, step), RECORD_BYTES + item.nbytes)

    def wait_until_open(self) -> None:
        """Wait until the backend is up or could not start; one that takes too long is given up."""
        if self._opened.wait(self._open_seconds):
            return
        self._given_up = True
        self._note(f"not up within {self._open_seconds:g} s, so given up")
        logger.warning("%s is %s; history.jsonl in the run folder has every figure", self._name, self._problem)
        self._attempt(self._abandon)

    def finish(self, status: Status) -> None:
        """Queue the end, wait for it a bounded time and report records that were lost."""
        if self._finishing:
            return
        self._finishing = True
        self._calls.put((lambda backend: backend.finish(status), 0))
        self._thread.join(0 if self._given_up else self._finish_seconds)
        if not self._finished:
            if self._thread.is_alive() and not self._given_up:
                self._note(f"no answer within {self._finish_seconds:g} s at the end of the run")
            self._attempt(self._abandon)
            self._thread.join(ABANDON_SECONDS)
        lost = self._submitted - self._recorded
        if lost or self._problem:
            logger.warning(
                "%s did not take %d of %d records (%s); history.jsonl in the run folder has every figure",
                self._name,
                lost,
                self._submitted,
                self._problem or "it was too slow",
            )

    def _submit(self, call: Callable[[Backend], None], size: int) -> None:
        if self._finishing:
            return
        self._submitted += 1
        with self._lock:
            if self._given_up or self._waiting_bytes + size > self._queue_bytes:
                return
            self._waiting_bytes += size
        self._calls.put((call, size))

    def _serve(self, open_backend: Callable[[], Backend]) -> None:
        opened: list[Backend] = []
        self._attempt(lambda: opened.append(open_backend()))
        self._opened.set()
        failures = 0
        while opened and failures < MAX_FAILURES and not self._given_up:
            call, size = self._calls.get()
            done = self._attempt(functools.partial(call, opened[0]))
            failures = 0 if done else failures + 1
            if size == 0:
                self._finished = done
                return
            with self._lock:
                self._waiting_bytes -= size
            self._recorded += done

    def _attempt(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except Exception as error:
            self._note(f"{type(error).__name__}: {error}".splitlines()[0])
            return False
        return True

    def _note(self, problem: str) -> None:
        """Keep the first problem: the later ones mostly follow from it."""
        self._problem = self._problem or problem


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with one level: `{"dice": {"any": 1}, "iou": [2, 3]}` -> `{"dice/any": 1, "iou/1": 2, "iou/2": 3}`.

    Values that are None are left out.
    """
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, list | tuple):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": item for key, item in flatten(value).items()}
        elif value is not None:
            flat[name] = value.item() if isinstance(value, np.generic) else value
    return flat
