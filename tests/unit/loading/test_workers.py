"""Processes that load data: they outlive stop signals of the job, and end with it, whatever happens around them."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from steel.errors import InputError
from steel.loading.workers import ordered_map
from tests.page_faults import PAGES, faults_of_freed_memory, needs_glibc
from tests.paths import ROOT

pytestmark = pytest.mark.usefixtures("no_children")


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def slow_square(number: int) -> int:
    time.sleep(0.01)
    return number * number


def test_stop_signals_do_not_touch_workers() -> None:
    """As a cluster or a terminal sends them: to every process of the job. (The parent's own SIGTERM ends a worker.)"""
    results = ordered_map(slow_square, endless(), workers=2)
    assert next(results) == 0
    for worker in multiprocessing.active_children():
        for name in ("TERM", "INT", "USR1", "USR2"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert [next(results) for _ in range(100)] == [n * n for n in range(1, 101)]
    results.close()


def test_closing_early_is_quick_and_leaves_nobody() -> None:
    results = ordered_map(slow_square, endless(), workers=2)
    assert next(results) == 0
    with time_limit(3):
        results.close()
    assert not multiprocessing.active_children()


def sleep_long(number: int) -> int:
    time.sleep(0 if number == 0 else 1000)
    return number


def test_closing_does_not_wait_for_work_that_hangs() -> None:
    results = ordered_map(sleep_long, endless(), workers=1)
    assert next(results) == 0
    with time_limit(12):  # the loader gives a worker five seconds to leave
        results.close()
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_an_error_not_a_hang() -> None:
    results = ordered_map(slow_square, endless(), workers=2)
    next(results)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with (
        time_limit(12),
        pytest.raises(InputError, match=r"a data-loading process was killed: DataLoader worker .*memory"),
    ):
        for _ in results:
            pass
    assert not multiprocessing.active_children()


def fail_on_three(number: int) -> int:
    if number == 3:
        raise OSError(28, "No space left on device", "/cache/shard")
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_in_a_worker_arrives_as_it_is(workers: int) -> None:
    results = ordered_map(fail_on_three, range(9), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="No space left") as caught:
        next(results)
    assert (caught.value.errno, caught.value.filename) == (28, "/cache/shard")


def use_opencv_and_torch(number: int) -> tuple[int, int]:
    import cv2

    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 5.0)
    return cv2.getNumThreads(), torch.get_num_threads()


def test_workers_compute_in_one_thread_though_the_parent_used_many() -> None:
    import cv2

    cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 5.0)  # starts the parent's threads
    with time_limit(20):
        assert list(ordered_map(use_opencv_and_torch, range(2), workers=2)) == [(1, 1)] * 2


@needs_glibc
@pytest.mark.usefixtures("no_malloc_settings")
def test_workers_keep_freed_memory() -> None:
    """Whatever the parent does: it is not forked here."""
    (faults,) = ordered_map(faults_of_freed_memory, [PAGES], workers=1, start_method="spawn")
    assert faults < PAGES / 3


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import multiprocessing, sys, time
        from tests.unit.loading.test_workers import endless, slow_square
        from steel.loading.workers import ordered_map
        results = ordered_map(slow_square, endless(), workers=2)
        next(results)
        print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
        time.sleep(1000)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(map(is_running, workers)):
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False
