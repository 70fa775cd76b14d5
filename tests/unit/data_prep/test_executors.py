"""Where a job's work runs."""

import os

import pytest

from data_prep.executors import EXECUTOR_KINDS, ExecutorKind, open_executor
from steel.errors import ResourceError
from tests.page_faults import PAGES, faults_of_freed_memory, needs_glibc


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
