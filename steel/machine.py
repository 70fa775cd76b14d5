"""What this process may use of its machine: cores, memory, and how many ranks share them."""

import ctypes
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

_MALLOC_SETTINGS = ((-8, 1), (-3, 1 << 30), (-1, (1 << 31) - 1))
"""glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: one arena for all threads, blocks of up to a gigabyte in
it, and nothing handed back below two gigabytes that are free."""
Workers = int | Literal["auto"]
MOST_WORKERS = 16
"""Beyond so many data-loader processes per rank there is nothing to gain: they outrun any device."""


def usable_cores(root: Path = Path("/")) -> float:
    """Cores that this process may use: those it is bound to, or fewer where its control group has a quota.

    Args:
        root: under which `proc` and `sys` lie.
    """
    return min([float(len(os.sched_getaffinity(0))), *_quotas(root)])


class Binding(NamedTuple):
    """Where a rank may run."""

    machine: str
    cores: frozenset[int]
    """Their numbers."""


def told_load() -> str:
    """Behind what is said of times measured here: that others compute here, too, and how much; nothing where none do.

    The load average of the last minute counts this program itself, which has as many threads as there are cores.
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return "" if load <= 2 * cores else f"; this machine is busy ({load:.0f} threads for {cores} cores), which slows it"


def own_binding() -> Binding:
    """This process's; two machines of one name are told apart by when they were started."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # a sandbox
        started = ""
    return Binding(f"{socket.gethostname()} {started}", frozenset(os.sched_getaffinity(0)))


def own_cores(own: Binding, everybodys: Sequence[Binding], root: Path = Path("/")) -> float:
    """Cores that are a rank's own, if those are shared fairly: among the ranks that are bound to them, which are all on
    the machine, or fewer where the launcher binds each to some, as SLURM's does; and a control group's quota among all.

    Args:
        own: the rank's.
        everybodys: of all ranks of the job.
        root: as of `usable_cores`.
    """
    here = [other for other in everybodys if other.machine == own.machine]
    sharers = sum(not other.cores.isdisjoint(own.cores) for other in here)
    return min([len(own.cores) / sharers, *(quota / len(here) for quota in _quotas(root))])


def whole_memory(root: Path = Path("/")) -> int:
    """Bytes of the machine, or fewer where a control group around this process has a limit, as a container's has."""
    return min([_meminfo(root, "MemTotal:"), *(limit for limit, _ in _memory_limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process and the page cache may still take, within the limits of its control group."""
    return min([_meminfo(root, "MemAvailable:"), *(max(0, limit - used) for limit, used in _memory_limits(root))])


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for what is allocated next; whether it does, which only glibc can.

    For programs that compute on a CPU: a pass frees hundreds of blocks of megabytes, and the next one asks for as many
    again. By itself glibc hands them back to the kernel, which fills every page with zeros when it comes anew:
    bench/train_step.md has what that costs a training step. And for processes that decode one image after another. The
    process stays as large as it once had to be. To be called before threads are started, as each of them would have an
    arena of its own. What `MALLOC_ARENA_MAX` and its like say is left as it is.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return {mallopt(parameter, value) for parameter, value in _MALLOC_SETTINGS} == {1}


def reset_peak_memory() -> bool:
    """Hand back what is freed and kept, and count `peak_memory` anew; whether both can be done here."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):  # another C library; a sandbox
        return False
    return True


def peak_memory() -> int:
    """The most bytes of memory that this process has held since `reset_peak_memory`, libraries and shared pages too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) << 10


def local_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """Ranks on this machine, as the launcher says; 1 when it does not."""
    return int(environment.get("LOCAL_WORLD_SIZE") or environment.get("SLURM_NTASKS_PER_NODE") or 1)


def count_workers(asked: Workers, cores: float) -> int:
    """Data-loader processes of a rank: as many as asked, or by `auto` one for each of the `cores` that are the rank's
    own, less the one that the rank itself keeps busy; at least one."""
    if asked != "auto":
        return asked
    return max(1, min(MOST_WORKERS, int(cores) - 1))


def count_evaluation_workers(asked: Workers, cores: float, *, device: str, remote: bool) -> int:
    """Processes of a rank that read whole images for a network: as many as asked; by `auto` none on a CPU.

    There the network keeps every core busy, so a process that decodes beside it saves no time, and a fork costs some:
    the kernel copies each page that either side writes (bench/predictions.md). One that fetches ahead is worth it.

    Args:
        asked: of the option.
        cores: that are the rank's own.
        device: type of the network's device, such as `cpu`.
        remote: shards are fetched from elsewhere as they are needed.
    """
    return 0 if asked == "auto" and device == "cpu" and not remote else count_workers(asked, cores)


def parse_workers(text: str) -> Workers:
    """`auto` or a number of processes, of an option; raises ValueError for anything else."""
    if text == "auto":
        return "auto"
    number = int(text)
    if number < 0:
        raise ValueError("a number of processes cannot be negative")
    return number


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group around this process may take."""
    for folder in _groups(root, "cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            quota, period = (str(_number(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):  # else `max`, -1 or None: no quota
            yield int(quota) / int(period)


def _meminfo(root: Path, name: str) -> int:
    """Bytes, as the kernel counts them for the machine."""
    lines = (line.split() for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines())
    return next(int(words[1]) << 10 for words in lines if words[0] == name)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Bytes that each control group around this process may take, and those that it has taken."""
    for folder in _groups(root, "memory"):
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is None:  # the older layout
            limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            yield limit, used


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control groups that this process is in, and those around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / (controller if controllers else "")
            inner = mount / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(mount))


def _number(path: Path) -> int | None:
    """The whole number that a file holds; None when there is none."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
