"""Where a job's work runs."""

import os
import time
from pathlib import Path

import pytest

from steel.errors import ResourceError
from steel.executors import EXECUTOR_KINDS, ExecutorKind, open_executor
from steel.startup import Terminated
from steel.stopping import STOP
from tests.page_faults import PAGES, faults_of_freed_memory, needs_glibc
from tests.until_stopped import TASK_S, work_until_stopped


@needs_glibc
@pytest.mark.usefixtures("no_malloc_settings")
def test_worker_processes_keep_freed_memory() -> None:
    with open_executor("process", 2) as executor:
        assert executor.submit(faults_of_freed_memory, PAGES).result() < PAGES / 3


def test_a_worker_that_is_killed_while_others_are_started_is_told_as_that() -> None:
    def break_it() -> None:
        with open_executor("process", 2) as executor:
            assert executor.submit(os._exit, 1).exception() is not None
            raise OSError("handle is closed")  # as starting a process says by chance, once the pool has closed its own

    with pytest.raises(ResourceError, match="a worker process was killed"):
        break_it()


@pytest.mark.parametrize("kind", EXECUTOR_KINDS)
def test_an_error_of_the_disk_stays_what_it_is(kind: ExecutorKind) -> None:
    def fail() -> None:
        with open_executor(kind, 2) as executor:
            assert executor.submit(int).result() == 0
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
@pytest.mark.parametrize(("kind", "workers"), [("process", 2), ("thread", 2), ("process", 1)])
def test_an_interruption_does_not_wait_for_the_task_that_runs(
    tmp_path: Path, kind: ExecutorKind, workers: int, stop: type[KeyboardInterrupt]
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"

    def interrupt() -> None:
        with open_executor(kind, workers) as executor:
            executor.submit(work_until_stopped, begun, ended)
            while not begun.exists():
                time.sleep(0.02)
            nonlocal start
            start = time.monotonic()
            raise stop

    start = 0.0
    with pytest.raises(stop):
        interrupt()
    assert ended.exists()
    assert time.monotonic() - start < TASK_S / 2
    assert not STOP.is_set()  # what runs next in this process is not stopped
