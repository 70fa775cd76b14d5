"""What this machine and this process look like to a training run: versions, hardware, launcher, disk."""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steel.errors import InputError
from steel.machine import available_memory, local_ranks, told_load, usable_cores
from train.engine.disk_speed import measure_disk

PACKAGES = (
    "steel-defects",
    "torch",
    "torchvision",
    "accelerate",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "numpy",
    "opencv-python-headless",
    "pyarrow",
    "wandb",
)
GIB = 2**30
DISK_PROBE_BYTES = 64 * 2**20
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """One line of the report, the same on every rank it holds for."""

    subject: str
    text: str
    level: Literal["fine", "warning", "problem"] = "fine"


Check = Callable[[], Iterator[Finding]]


def run_checks(checks: Mapping[str, Check]) -> list[Finding]:
    """The findings of all checks; one that breaks is a problem itself and does not stop the others."""
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            findings += check()
        except Exception as error:
            message = str(error).strip().splitlines()[:1] or [""]
            findings.append(Finding(subject, f"failed with {type(error).__name__}: {message[0]}", "problem"))
    return findings


def check_versions() -> Iterator[Finding]:
    """Python and the packages that matter."""
    yield Finding("python", platform.python_version())
    found = {name: _version(name) for name in PACKAGES}
    yield Finding("packages", ", ".join(f"{name} {version}" for name, version in found.items() if version))
    missing = [name for name, version in found.items() if version is None and name != "wandb"]
    if missing:
        yield Finding("packages", f"not installed: {', '.join(missing)}; run `make setup`", "problem")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_machine() -> Iterator[Finding]:
    """Processors, memory, the shared memory that data-loader workers use, and open files."""
    cores, ranks = usable_cores(), local_ranks()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    yield Finding(
        "machine",
        f"{socket.gethostname()}, {platform.platform(terse=True)}: {cores:g} cores, {memory:.0f} GiB of memory "
        f"({available_memory() / GIB:.0f} free), ranks here: {ranks}{told_load()}",
    )
    shared = shutil.disk_usage("/dev/shm").free / GIB
    if shared < 1:
        yield Finding(
            "machine",
            f"/dev/shm has {shared:.2f} GiB free: data-loader workers may die with a bus error; give the container "
            "more (docker run --shm-size=8g, or a memory volume in Kubernetes), or use --runtime.workers 0",
            "warning",
        )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 1024:
        yield Finding("machine", f"only {files} files may be open; raise it with `ulimit -n 4096`", "warning")


def check_gpus() -> Iterator[Finding]:
    """The GPUs, whether torch can use them, and NCCL."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("gpu", "none; training runs on the CPU")
        if torch.version.cuda is None and NVIDIA_DRIVER.exists():
            yield Finding(
                "gpu", "there is one, but this torch is built without CUDA; install the CUDA build", "problem"
            )
        elif NVIDIA_DRIVER.exists():
            yield Finding(
                "gpu",
                f"there is one, but torch (CUDA {torch.version.cuda}) cannot use it: the driver is too old, or "
                f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')!r} hides it",
                "warning",
            )
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        yield Finding(
            "gpu",
            f"{number}: {properties.name}, {total / GIB:.0f} GiB ({free / GIB:.0f} free), "
            f"compute {properties.major}.{properties.minor}",
        )
        if free < total / 2:
            yield Finding("gpu", f"{number}: more than half of its memory is taken by another program", "warning")
        square = torch.ones(64, 64, device=f"cuda:{number}")
        if (square @ square).sum().item() != 64**3:
            yield Finding("gpu", f"{number}: computes wrong results; restart the machine or replace it", "problem")
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    said = NVIDIA_DRIVER.read_text(encoding="utf-8", errors="replace") if NVIDIA_DRIVER.exists() else ""
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", said)
    yield Finding("nccl", f"{nccl}, CUDA {torch.version.cuda}, driver {match[1] if match else 'unknown'}")
    ranks = local_ranks(os.environ)
    if ranks > torch.cuda.device_count():
        yield Finding(
            "gpu", f"{ranks} ranks share {torch.cuda.device_count()} GPUs here; start one rank a GPU", "problem"
        )


def launcher_name(environment: Mapping[str, str] = os.environ) -> str:
    """Who started this process: `accelerate`, `torchrun`, `srun` or `python`."""
    if "ACCELERATE_MIXED_PRECISION" in environment:
        return "accelerate"
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun"
    return "srun" if "SLURM_STEP_ID" in environment else "python"


def refuse_odd_ranks(environment: Mapping[str, str]) -> None:
    """Raises InputError where what a launcher says of ranks is no number."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        value = environment.get(name, "0")
        if value and not value.isdecimal():
            raise InputError(f"{name}={value}: no whole number; a launcher sets it, and without one it stays unset")


def check_launcher(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """The world as the launcher describes it, where ranks meet, and settings that change how they talk."""
    world, tasks = int(environment.get("WORLD_SIZE", "1")), int(environment.get("SLURM_NTASKS", "1"))
    place = ""
    if world > 1:
        place = f"; they meet at {environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"
    yield Finding("launcher", f"{launcher_name(environment)}, {world} rank{'s' if world > 1 else ''}{place}")
    if "WORLD_SIZE" not in environment and "SLURM_STEP_ID" in environment and tasks > 1:
        yield Finding(
            "launcher",
            f"srun started {tasks} tasks, but nobody told them their ranks: each believes it is alone; start them "
            "with `srun launch/slurm/rank.sh ...`",
            "problem",
        )
    told = [f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith(("NCCL_", "GLOO_"))]
    if told:
        yield Finding("launcher", " ".join(told))


def check_meeting_place(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Why ranks may not find each other; to be asked when they did not."""
    host, world = environment.get("MASTER_ADDR", ""), int(environment.get("WORLD_SIZE", "1"))
    try:
        address = socket.gethostbyname(host)
    except OSError:
        yield Finding("world", f"MASTER_ADDR={host!r} is no known host; give the first machine's address", "problem")
        return
    if address.startswith("127.") and local_ranks(environment) < world:
        yield Finding(
            "world",
            f"MASTER_ADDR={host} is this machine's own loopback ({address}), which no other machine can reach; give "
            "the first machine's address in the network",
            "problem",
        )


def check_disk(folder: Path) -> Iterator[Finding]:
    """Free space and speed where a run would write: 64 MiB written, flushed and read back past the page cache."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / GIB
    try:
        speed = measure_disk(existing, DISK_PROBE_BYTES)
    except OSError as error:
        yield Finding("disk", f"{existing}: cannot be written ({error.strerror}); choose another --out", "problem")
        return
    write, read = speed.write / 1e6, speed.read / 1e6
    yield Finding("disk", f"{existing}: {free:.0f} GiB free, writes {write:.0f} MB/s, reads {read:.0f} MB/s")
    if free < 5:
        yield Finding("disk", f"{existing}: less than 5 GiB free; states and checkpoints may not fit", "warning")
    if write < 20:
        yield Finding("disk", f"{existing}: saving will be slow; a state is several times the model's size", "warning")
