"""Work spread over data-loader processes: results in order, no orphans, no hang on closing, no death by a stop signal.

Workers are forked (on Linux): they start in milliseconds and touch neither CUDA nor the parent's threads. `forkserver`
and `spawn` work as well, as everything handed over can be pickled; they import torch anew in each worker.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from steel.errors import InputError
from steel.machine import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")
StartMethod = Literal["fork", "forkserver", "spawn"]

DEFAULT_START: StartMethod = "fork" if sys.platform == "linux" else "spawn"
PREFETCH = 4
"""Results that each worker is ahead, where they are no larger than usual."""
_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_WATCH_SECONDS = 1.0


def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    prefetch: int = PREFETCH,
    on_start: Callable[[int, int], None] | None = None,
    start_method: StartMethod = DEFAULT_START,
) -> Generator[Result, None, None]:
    """`work(item)` of every item, in the items' order, computed in `workers` processes; in this one for 0.

    Closing the generator early ends the workers. They ignore SIGINT, SIGTERM and SIGUSR1, which are the parent's to
    act on, and leave when the parent is gone. Bad input and a full disk found by a worker are raised here as they are.

    Args:
        work: a picklable function; with several workers its results are tensors in tuples and what pickles well.
        items: taken ahead of the results, in this process.
        workers: number of processes.
        prefetch: results that each of them is ahead.
        on_start: called in each worker, in a thread of its own, with its number and their count.
        start_method: how workers are started.

    Raises:
        InputError: a worker was killed from outside, as happens when memory runs out.
    """
    if workers == 0:
        yield from map(work, items)
        return
    loader = DataLoader(
        _Work(work),
        batch_size=None,
        sampler=items,  # any iterable will do
        num_workers=workers,
        collate_fn=_unchanged,
        prefetch_factor=prefetch,
        worker_init_fn=partial(_start_worker, os.getpid(), workers, on_start),
        multiprocessing_context=start_method,
        generator=torch.Generator(),  # else every start would draw from, and change, the global one
    )
    with _stop_signals_held():
        results = iter(loader)
    try:
        for result in results:
            if isinstance(result, _Failure):
                raise result.error
            yield result
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"a data-loading process was killed: {str(error).splitlines()[0].strip()}; most often memory has run out, "
            "and a smaller runtime.workers helps"
        ) from error
    finally:
        _end(results)


class _Failure:
    """An error that carries its own message; the loader would wrap it in a worker's traceback."""

    def __init__(self, error: InputError | OSError) -> None:
        self.error = error


class _Work(Dataset, Generic[Item, Result]):
    def __init__(self, work: Callable[[Item], Result]) -> None:
        self.work = work

    def __getitem__(self, item: Item) -> Result | _Failure:
        try:
            return self.work(item)
        except (InputError, OSError) as error:
            return _Failure(error)


def _unchanged(result: Result) -> Result:
    return result


@contextmanager
def _stop_signals_held() -> Generator[None, None, None]:
    """Let stop signals wait while workers are born: until they ignore them, they would die of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_IGNORED, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int, workers: int, on_start: Callable[[int, int], None] | None, number: int) -> None:
    """Runs in a new worker before its first item."""
    for number_of_signal in _IGNORED:
        signal.signal(number_of_signal, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the watch takes it
    keep_freed_memory()  # each sample is decoded into memory of the size that the one before has just freed
    cv2.setNumThreads(0)  # not 1: that waits for the parent's threads, which a forked child does not have
    threading.Thread(target=_watch, args=(parent, os.getppid()), daemon=True).start()
    if on_start is not None:
        threading.Thread(target=on_start, args=(number, workers), daemon=True).start()


def _watch(parent: int, born_under: int) -> None:
    """End this worker when its parent asks for it or is gone; ignore SIGTERM from anybody else."""
    process = multiprocessing.parent_process()
    while True:
        received = signal.sigtimedwait({signal.SIGTERM}, _WATCH_SECONDS)
        if received is not None and received.si_pid == parent:
            os._exit(0)
        if os.getppid() != born_under or (process is not None and not process.is_alive()):
            os._exit(1)


def _end(results: Any) -> None:
    """Stop the workers of a loader's iterator; within seconds, whatever they are doing."""
    results._shutdown_workers()
    for worker in results._workers:
        if worker.is_alive():
            worker.kill()
