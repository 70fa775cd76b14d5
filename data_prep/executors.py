"""Where the work runs: the one place that chooses an executor."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, get_args

from steel.errors import InputError
from steel.extensions import load_extensions

ExecutorKind = Literal["process", "thread", "dask"]
EXECUTOR_KINDS: tuple[str, ...] = get_args(ExecutorKind)


@contextmanager
def open_executor(kind: ExecutorKind, workers: int) -> Iterator[Executor]:
    """An executor of `workers` workers; what has not started is cancelled when the block ends by an error.

    Args:
        kind: `process` and `thread` on this machine; `dask` on the cluster that DASK_SCHEDULER_ADDRESS names, or on one
            made of local processes.
        workers: How many; left to the cluster's size when that runs elsewhere.

    Raises:
        InputError: Dask is not installed; or, from within the block, a worker process was killed.
    """
    if kind == "dask":
        with _open_dask(workers) as executor:
            yield executor
        return
    executor = _open_local(kind, workers)
    try:
        yield executor
    except BrokenExecutor:
        executor.shutdown(wait=False, cancel_futures=True)
        raise InputError(
            "a worker process was killed, perhaps for lack of memory; the same command goes on, with fewer --workers"
        ) from None
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown()


def _open_local(kind: ExecutorKind, workers: int) -> Executor:
    if kind == "thread" or workers == 1:  # one process beside this idle one would only cost its start
        return ThreadPoolExecutor(workers)
    spawn = multiprocessing.get_context("spawn")  # forked children of a process with threads may deadlock
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)


@contextmanager
def _open_dask(workers: int) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError("--executor dask needs Dask: pip install 'steel-defects[dask]'") from None
    elsewhere = "DASK_SCHEDULER_ADDRESS" in os.environ
    client = Client() if elsewhere else Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with client, client.get_executor(pure=False) as executor:
        yield executor


def _start_worker() -> None:
    """Make a worker process leave interruptions to its parent, die with it, keep to one core, and know extensions."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    load_extensions()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
