"""Where the work runs: the one place that chooses an executor."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Literal, TypeVar, get_args

from steel.errors import ResourceError
from steel.extensions import load_extensions
from steel.machine import keep_freed_memory
from steel.startup import interruptions_wait
from steel.stopping import STOP, stop_at_end_of

T = TypeVar("T")
ExecutorKind = Literal["process", "thread"]
EXECUTOR_KINDS: tuple[str, ...] = get_args(ExecutorKind)


@contextmanager
def open_executor(kind: ExecutorKind, workers: int, *, goes_on: bool = False) -> Iterator[Executor]:
    """An executor of `workers` workers; what has not started is cancelled when the block ends by an error.

    Ctrl-C and SIGTERM also end what has, and so does closing a generator that is in the block: a cluster's grace is
    shorter than a shard takes.

    Args:
        kind: What a worker is.
        workers: How many, on this machine. Several machines share the work by `--part`.
        goes_on: The program has kept what was done so far, and goes on with it when it is run again.

    Raises:
        ResourceError: From within the block, a worker process was killed.
    """
    executor, stop = _open_local(kind, workers)
    try:
        yield executor
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            stop()
        is_broken = isinstance(error, BrokenExecutor) or (isinstance(error, OSError) and _is_broken(executor))
        executor.shutdown(wait=not is_broken, cancel_futures=True)
        STOP.clear()  # of this process, whose next tasks are others
        if not is_broken:
            raise
        advice = "the same command goes on, with fewer --workers" if goes_on else "run it again with fewer --workers"
        raise ResourceError(f"a worker process was killed, perhaps for lack of memory; {advice}") from None
    executor.shutdown()


def _is_broken(executor: Executor) -> bool:
    """Whether it takes no more work: one that breaks while it starts a further process fails by closed handles."""
    try:
        executor.submit(int).cancel()
    except BrokenExecutor:
        return True
    except OSError:
        pass
    return False


def _open_local(kind: ExecutorKind, workers: int) -> tuple[Executor, Callable[[], None]]:
    """An executor, and what makes tasks that run on it end soon."""
    if kind == "thread" or workers == 1:  # one process beside this idle one would only cost its start
        return ThreadPoolExecutor(workers), STOP.set
    spawn = _Spawn()  # forked children of a process with threads may deadlock
    theirs, ours = spawn.Pipe(duplex=False)
    return _Processes(workers, mp_context=spawn, initializer=_start_worker, initargs=(theirs,)), ours.close


class _Processes(ProcessPoolExecutor):
    """Whose workers are started, with what the pool has to know of them, without an interruption in between: one that
    nobody knows of would meet a parent that is gone."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As ever."""
        with interruptions_wait():
            return super().submit(fn, *args, **kwargs)


class _Worker(SpawnProcess):
    """A process that Ctrl-C does not reach: not while it imports what it runs, either, which takes seconds."""

    def start(self) -> None:
        """It begins with this thread's mask of signals; a Ctrl-C that comes meanwhile is had afterwards."""
        resource_tracker.ensure_running()  # else it is started in here, and takes the mask away
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(SpawnContext):
    Process = _Worker


def _start_worker(stop: Connection) -> None:
    """Make a worker process leave interruptions to its parent, stop at its word, die with it, keep to one core, and
    know extensions."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    stop_at_end_of(stop)
    keep_freed_memory()  # each image is decoded into memory of the size that the one before has just freed
    cv2.setNumThreads(1)
    load_extensions()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
