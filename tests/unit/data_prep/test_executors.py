"""Where a job's work runs."""

import pytest

from data_prep.executors import open_executor
from tests.page_faults import PAGES, faults_of_freed_memory, needs_glibc


@needs_glibc
@pytest.mark.usefixtures("no_malloc_settings")
def test_worker_processes_keep_freed_memory() -> None:
    with open_executor("process", 2) as executor:
        assert executor.submit(faults_of_freed_memory, PAGES).result() < PAGES / 3
