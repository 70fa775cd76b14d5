"""The calls of an experiment tracker, and a queue that keeps a slow or dead one from stopping the training it watches.

A call puts a record in a bounded queue and returns; a daemon thread hands the records to the backend. Records that a
backend does not take are counted and reported once at the end; no exception and no wait reaches the training loop.
`history.jsonl` (see `steel.history`) is the record that loses nothing.
"""

import functools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

logger = logging.getLogger(__name__)

Status = Literal["finished", "interrupted", "failed"]

QUEUE_BYTES = 64 * 2**20
"""Records waiting for the backend beyond this are dropped."""
RECORD_BYTES = 1024
"""What a record without images is taken to weigh in the queue."""
FINISH_SECONDS = 30.0
"""How long `finish` waits for the backend; a preempted job has little more than this in all."""
ABANDON_SECONDS = 2.0
"""How long an abandoned backend may take to notice and clean up."""
MAX_FAILURES = 5
"""Calls that fail in a row before a backend is given up."""


class Tracker(Protocol):
    """What a training loop calls. `step` is the global step, counted over all phases and attempts."""

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Record figures; nested mappings and sequences are flattened to `name/key`, sequences counted from 1."""
        ...

    def log_images(self, name: str, images: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        """Record pictures, uint8 of shape (H, W) or (H, W, 3) RGB, which the caller no longer changes."""
        ...

    def log_checkpoint(self, path: Path) -> None:
        """Record a checkpoint file that stays as it is."""
        ...

    def finish(self, status: Status) -> None:
        """Say how the run ended and close; later calls do nothing. Waits a bounded time."""
        ...


class NullTracker:
    """Records nothing."""

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Do nothing."""

    def log_images(self, name: str, images: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        """Do nothing."""

    def log_checkpoint(self, path: Path) -> None:
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
        finish_seconds: how long `finish` waits for the backend to take what is left and close.
    """

    def __init__(
        self,
        name: str,
        open_backend: Callable[[], Tracker],
        *,
        abandon: Callable[[], None] = lambda: None,
        queue_bytes: int = QUEUE_BYTES,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._name = name
        self._abandon = abandon
        self._queue_bytes = queue_bytes
        self._finish_seconds = finish_seconds
        self._calls: queue.SimpleQueue[tuple[Callable[[Tracker], None], int]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._submitted = 0
        self._recorded = 0
        self._problem = ""
        self._finishing = False
        self._finished = False
        self._thread = threading.Thread(target=self._serve, args=(open_backend,), name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Queue figures."""
        record = flatten(record)
        self._submit(lambda backend: backend.log(record, step), RECORD_BYTES)

    def log_images(self, name: str, images: Sequence[np.ndarray], captions: Sequence[str], step: int) -> None:
        """Queue pictures."""
        size = RECORD_BYTES + sum(image.nbytes for image in images)
        self._submit(lambda backend: backend.log_images(name, images, captions, step), size)

    def log_checkpoint(self, path: Path) -> None:
        """Queue a checkpoint's path."""
        self._submit(lambda backend: backend.log_checkpoint(path), RECORD_BYTES)

    def finish(self, status: Status) -> None:
        """Queue the end, wait for it a bounded time and report records that were lost."""
        if self._finishing:
            return
        self._finishing = True
        self._calls.put((lambda backend: backend.finish(status), 0))
        self._thread.join(self._finish_seconds)
        if not self._finished:
            if self._thread.is_alive():
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

    def _submit(self, call: Callable[[Tracker], None], size: int) -> None:
        if self._finishing:
            return
        self._submitted += 1
        with self._lock:
            if self._waiting_bytes + size > self._queue_bytes:
                return
            self._waiting_bytes += size
        self._calls.put((call, size))

    def _serve(self, open_backend: Callable[[], Tracker]) -> None:
        opened: list[Tracker] = []
        self._attempt(lambda: opened.append(open_backend()))
        failures = 0
        while opened and failures < MAX_FAILURES:
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
