"""Writes states and the best weights beside training."""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from steel.model.host_copy import HostCopies
from train.engine.loop_state import LoopState
from train.engine.state import OtherVersionError, SavedState, top_checkpoint_files, write_state
from train.engine.top_checkpoints import TopCheckpoint, TopCheckpoints

logger = logging.getLogger("train.fit")

_STATE, _WEIGHTS = "state", "weights"
"""What is written."""


class StateWriter:
    """Writes states and the best weights on a thread of its own, one after another, so that training waits for their
    host copy alone; `reserve` makes the memory for that.

    Files come to the disk in the order in which they were submitted: a state is there no sooner than the weights that
    it ranks, and never without them.
    """

    def __init__(
        self, folder: Path, keep: int, interval: float = math.inf, wait_for_records: Callable[[], None] = lambda: None
    ) -> None:
        """Args:
        folder: of all states.
        keep: how many.
        interval: seconds after which another one is due.
        wait_for_records: returns when what was logged up to a state is in the run's history, where a run that resumes
            from it must find it; called on the thread. A state is not written if it raises.
        """
        self._folder = folder
        self._wait_for_records = wait_for_records
        self._keep = keep
        self._interval = interval
        self._since = time.monotonic()
        self._copies, self._best_copies = HostCopies(), HostCopies()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state-writer")
        self._pending: dict[str, Future[None]] = {}
        """The last write of each kind, until somebody has asked what became of it."""
        self._has_failed = False

    def reserve(self, tensors: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
        """Make the memory that states and best weights are copied to: else the first of each waits for it.

        Args:
            tensors: as of the states to come.
            weights: as of the weights to come.
        """
        self._copies.reserve(tensors)
        self._best_copies.reserve(weights)

    @property
    def is_idle(self) -> bool:
        """Whether all that was submitted is written."""
        return all(pending.done() for pending in self._pending.values())

    @property
    def is_due(self) -> bool:
        """Whether it is time for another state, and all that was submitted is written."""
        return self.is_idle and time.monotonic() - self._since >= self._interval

    def submit(
        self,
        loop: LoopState,
        top_checkpoints: Sequence[TopCheckpoint],
        tensors: Mapping[str, torch.Tensor],
        prepared: float = 0.0,
    ) -> None:
        """Copy a state of this moment and start writing it; waits for the one before, whose memory it takes.

        Args:
            loop: where training is.
            top_checkpoints: as of `SavedState`.
            tensors: as of `SavedState`, wherever they are.
            prepared: seconds that training has waited for these already.

        Raises:
            StateWriteError: that could not be written.
            OSError: a line of the history before it could not.
        """
        start = time.monotonic()
        self._wait_for(_STATE)
        waited, self._since = time.monotonic() - start, time.monotonic()
        self._copies.begin(tensors)
        self._pending[_STATE] = self._begin(self._write, copy.deepcopy(loop), tuple(top_checkpoints), prepared, waited)

    def submit_best(
        self, store: TopCheckpoints, offered: TopCheckpoint, weights: Mapping[str, torch.Tensor] | None
    ) -> None:
        """Copy the weights of a validation and start writing them; then the files that nothing needs any more go.

        Waits for the weights before, whose memory they take, and not for the state under way: the validation that gave
        them may have been shorter than its writing.

        Args:
            store: that has ranked them.
            offered: whose weights they are.
            weights: None where they are not among the best: files go alone.

        Raises:
            InputError: the weights before could not be written.
        """
        self._wait_for(_WEIGHTS)
        if weights is not None:
            self._best_copies.begin(weights)
        is_kept = weights is not None
        self._pending[_WEIGHTS] = self._begin(self._write_best, store, offered, store.ranked, is_kept)

    def _begin(self, write: Callable[..., None], *args: Any) -> Future[None]:
        """`write(*args)` on the thread, unless something before it could not be written."""

        def run() -> None:
            if self._has_failed:
                return
            try:
                write(*args)
            except BaseException:
                self._has_failed = True
                raise

        return self._pool.submit(run)

    def _write_best(
        self, store: TopCheckpoints, offered: TopCheckpoint, ranked: tuple[TopCheckpoint, ...], is_kept: bool
    ) -> None:
        if is_kept:
            weights, _ = self._best_copies.wait()
            store.write(offered, weights)
        with contextlib.suppress(OtherVersionError):  # whose state may name any of the files: all stay
            store.prune(ranked, top_checkpoint_files(self._folder))

    def _write(
        self, loop: LoopState, top_checkpoints: tuple[TopCheckpoint, ...], prepared: float, waited: float
    ) -> None:
        start = time.monotonic()
        tensors, held_up = self._copies.wait()
        self._wait_for_records()
        write_state(self._folder, SavedState(loop, top_checkpoints, tensors), self._keep)
        seconds = time.monotonic() - start
        message = "state of phase %d, step %d saved in %.2f s; training waited %.3f s for it%s"
        others = f", {waited:.3f} s of them until the one before was written" if waited >= 0.001 else ""
        logger.info(message, loop.phase, loop.step, seconds, prepared + waited + held_up, others)

    def check(self) -> None:
        """Raise the error of a write that has already failed; never waits."""
        for kind, pending in list(self._pending.items()):
            if pending.done():
                self._wait_for(kind)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            InputError: something could not be; `StateWriteError` if it was a state.
            OSError: a line of the history before a state could not.
        """
        for kind in list(self._pending):
            self._wait_for(kind)

    def _wait_for(self, kind: str) -> None:
        pending = self._pending.pop(kind, None)
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Let a write under way finish, without raising: the run is already ending."""
        self._pool.shutdown(wait=True)
