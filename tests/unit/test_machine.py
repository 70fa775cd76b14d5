"""Cores, memory and ranks, from files as the kernel writes them."""

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from steel.machine import (
    Binding,
    available_memory,
    count_evaluation_workers,
    count_workers,
    local_ranks,
    own_binding,
    own_cores,
    parse_workers,
    reset_peak_memory,
    told_load,
    usable_cores,
    whole_memory,
)


def kernel_files(root: Path, **files: str) -> Path:
    """A file for each name, where `__` stands for a slash and `_DOT_` for a point."""
    for name, text in {"proc__meminfo": "MemTotal: 9 kB\nMemAvailable:    2048 kB\n", **files}.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_without_control_groups_the_binding_counts(tmp_path: Path) -> None:
    assert usable_cores(kernel_files(tmp_path)) == 8
    assert available_memory(tmp_path) == 2 << 20
    assert whole_memory(tmp_path) == 9 << 10


def test_the_least_quota_of_the_groups_around_counts(tmp_path: Path) -> None:
    kernel_files(
        tmp_path,
        proc__meminfo="MemTotal: 4096 kB\nMemAvailable:    2048 kB\n",
        proc__self__cgroup="0::/pod/box\n",
        sys__fs__cgroup__pod__box__cpu_DOT_max="max 100000\n",
        sys__fs__cgroup__pod__cpu_DOT_max="350000 100000\n",
        sys__fs__cgroup__pod__memory_DOT_max="1500000\n",
        sys__fs__cgroup__pod__memory_DOT_current="400000\n",
    )
    assert usable_cores(tmp_path) == 3.5
    assert available_memory(tmp_path) == 1_100_000
    assert whole_memory(tmp_path) == 1_500_000


def test_the_older_layout_of_control_groups(tmp_path: Path) -> None:
    kernel_files(
        tmp_path,
        proc__self__cgroup="4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/a\n",
        sys__fs__cgroup__cpu__a__cpu_DOT_cfs_quota_us="200000\n",
        sys__fs__cgroup__cpu__a__cpu_DOT_cfs_period_us="100000\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us="-1\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us="100000\n",
        sys__fs__cgroup__memory__a__memory_DOT_limit_in_bytes="1000\n",
        sys__fs__cgroup__memory__a__memory_DOT_usage_in_bytes="1001\n",
    )
    assert usable_cores(tmp_path) == 2
    assert available_memory(tmp_path) == 0
    assert whole_memory(tmp_path) == 1000


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (16, 15), (64, 16), (8, 7), (0.5, 1), (3.5, 2)])
def test_workers_by_auto(cores: float, workers: int) -> None:
    assert count_workers("auto", cores) == workers
    assert count_workers(0, cores) == 0
    assert count_workers(9, cores) == 9


def bound(*cores: range) -> list[Binding]:
    return [Binding("a", frozenset(some)) for some in cores]


@pytest.mark.parametrize(
    ("everybodys", "cores"),
    [
        (bound(range(48)), 48),
        (bound(*[range(48)] * 8), 6),
        (bound(*[range(6 * n, 6 * n + 6) for n in range(8)]), 6),  # each to its own, by SLURM's binding
        (bound(*[range(24)] * 4, *[range(24, 48)] * 4), 6),  # to the halves of the machine
        ([*bound(range(48), range(48)), Binding("b", frozenset(range(48)))], 24),  # the third is on another machine
    ],
)
def test_the_cores_of_a_rank(everybodys: list[Binding], cores: float, tmp_path: Path) -> None:
    assert own_cores(everybodys[0], everybodys, tmp_path) == cores


def test_ranks_share_a_quota(tmp_path: Path) -> None:
    kernel_files(tmp_path, proc__self__cgroup="0::/a\n", sys__fs__cgroup__a__cpu_DOT_max="600000 100000\n")
    assert own_cores(*both(bound(range(8))), tmp_path) == 6
    assert own_cores(*both(bound(range(4), range(4, 8))), tmp_path) == 3
    assert own_cores(*both(bound(range(2), range(2, 8))), tmp_path) == 2


def both(everybodys: list[Binding]) -> tuple[Binding, list[Binding]]:
    return everybodys[0], everybodys


def test_a_process_says_where_it_may_run() -> None:
    own = own_binding()
    assert own.cores == set(range(8)) and own == own_binding()
    assert own.machine.startswith(socket.gethostname())


def test_ranks_of_this_machine() -> None:
    assert local_ranks({}) == 1
    assert local_ranks({"SLURM_NTASKS_PER_NODE": "4"}) == 4
    assert local_ranks({"LOCAL_WORLD_SIZE": "2", "SLURM_NTASKS_PER_NODE": "4"}) == 2


def test_a_network_on_the_cpu_reads_local_images_itself() -> None:
    assert count_evaluation_workers("auto", 16, device="cpu", remote=False) == 0
    assert count_evaluation_workers("auto", 16, device="cpu", remote=True) == 15
    assert count_evaluation_workers("auto", 16, device="cuda", remote=False) == 15
    assert count_evaluation_workers(3, 16, device="cpu", remote=False) == 3
    assert count_evaluation_workers(0, 16, device="cuda", remote=True) == 0


def test_workers_as_an_option() -> None:
    assert (parse_workers("auto"), parse_workers("3")) == ("auto", 3)
    for text in ("-1", "many"):
        with pytest.raises(ValueError):
            parse_workers(text)


FAULTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from steel.machine import keep_freed_memory

if sys.argv[1] == "keep":
    print(keep_freed_memory())

SIZE = 64_000_000  # 16,000 pages, and no constant to fold

def fill() -> int:
    b"x" * SIZE
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * SIZE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with ThreadPoolExecutor(1) as pool:
    print(fill() > 5000, pool.submit(fill).result() > 5000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize(
    ("how", "given", "said"),
    [
        ("by itself", {}, "True True"),
        ("keep", {}, "True\nFalse False"),
        ("keep", {"MALLOC_TOP_PAD_": "131072"}, "False\nTrue True"),
    ],
)
def test_freed_memory_is_kept_in_every_thread(how: str, given: dict[str, str], said: str) -> None:
    """Unless the environment says how memory is to be had."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | given
    line = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == said, done.stderr


PEAK = """
from steel.machine import keep_freed_memory, peak_memory, reset_peak_memory

SIZE = 400_000_000  # no constant to fold

def hold() -> int:
    before = peak_memory()
    b"x" * SIZE
    return peak_memory() - before

print(keep_freed_memory(), hold() > SIZE // 2, hold() > SIZE // 2, reset_peak_memory(), hold() > SIZE // 2)
"""


@pytest.mark.skipif(not reset_peak_memory(), reason="needs glibc and a writable /proc/self/clear_refs")
def test_the_most_that_is_held_is_counted_anew() -> None:
    """Also where freed memory is kept: it is handed back."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "True True False True True", done.stderr


@pytest.mark.parametrize(
    ("load", "told"), [(8.0, ""), (8.6, "; this machine is busy (9 threads for 4 cores), which slo")]
)
def test_a_busy_machine_is_told_of(load: float, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of its own with a thread for each core, and what comes and goes, are no others."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.1, 0.1))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert told_load().startswith(told) and bool(told_load()) == bool(told)
