"""The link between the ranks of a job: what it is and what it should give, as far as this machine tells."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from steel.distributed.runtime import Runtime

_PCIE_LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
"""Of each generation, in each direction."""
_COPY_BYTES = 64 * 2**20
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Link:
    """What the slowest step between two ranks goes over."""

    name: str
    gb_per_s: float | None = None
    """GB/s in each direction; None where it does not say."""
    is_bound: bool = True
    """Whether sums should come near it: a copy in memory is no more than a comparison."""


UNKNOWN = Link("unknown link")


def find_link(runtime: Runtime) -> Link:
    """The slowest link that a sum over the ranks goes over, the same on every rank; every rank calls this."""
    hosts = runtime.all_gather(socket.gethostname())
    on_gpus = runtime.device.type == "cuda"
    gpu = str(getattr(torch.cuda.get_device_properties(runtime.device), "uuid", "")) if on_gpus else ""
    gpus = runtime.all_gather(gpu)
    if len(set(hosts)) > 1:
        mine = network_link(os.environ, on_gpus=on_gpus)
    elif on_gpus:
        mine = gpu_link(gpus)
    else:
        mine = memory_link()
    return slowest(runtime.all_gather(mine))


def slowest(links: Sequence[Link]) -> Link:
    """The slowest of them; an unknown one where there is one, as it may be slower still."""
    return min(links, key=lambda link: link.gb_per_s or 0)


def memory_link() -> Link:
    """That of ranks on the processors of one machine, by a copy of one of them beside the others'."""
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return Link("the memory of one machine, by a copy in it", _COPY_BYTES / min(seconds) / 1e9, is_bound=False)


def gpu_link(uuids: Collection[str]) -> Link:
    """That of ranks on the GPUs of one machine, by what `nvidia-smi` says of them.

    Args:
        uuids: of the ranks' GPUs, as torch names them.
    """
    cards = parse_cards(_ask("--query-gpu=index,uuid,pcie.link.gen.max,pcie.link.width.max", "--format=csv,noheader"))
    if not uuids or not set(uuids) <= set(cards):
        return UNKNOWN
    mine = [cards[uuid] for uuid in uuids]
    if joined_by_nvlink(_ask("topo", "-m"), [card.index for card in mine]):
        speeds = [parse_nvlink(_ask("nvlink", "--status", "-i", str(card.index))) for card in mine]
        return Link("NVLink", min(speeds) or None)
    return slowest([card.pcie for card in mine])


@dataclass(frozen=True)
class Card:
    """A GPU as `nvidia-smi` has it."""

    index: int
    pcie: Link


def parse_cards(text: str) -> dict[str, Card]:
    """GPUs by UUID, without its `GPU-`, from lines of `index, uuid, generation, width`."""
    cards = {}
    for line in text.splitlines():
        index, uuid, generation, width = (*(part.strip() for part in line.split(",")), "", "", "", "")[:4]
        if index.isdecimal():
            lane = _PCIE_LANE_GB_S.get(int(generation)) if generation.isdecimal() else None
            known = lane is not None and width.isdecimal()
            pcie = Link(f"PCIe {generation} x{width}", lane * int(width)) if known and lane else Link("PCIe")
            cards[uuid.removeprefix("GPU-")] = Card(int(index), pcie)
    return cards


def joined_by_nvlink(topology: str, indices: Sequence[int]) -> bool:
    """Whether all of these GPUs reach each other over NVLink, by the matrix of `nvidia-smi topo -m`."""
    lines = _ANSI.sub("", topology).splitlines()
    columns = next((re.findall(r"GPU\d+|NIC\d+", line) for line in lines if "GPU0" in line), [])
    rows = {cells[0]: dict(zip(columns, cells[1:], strict=False)) for line in lines if (cells := line.split())}
    names = [f"GPU{index}" for index in indices]
    return all(rows.get(a, {}).get(b, "").startswith("NV") for a in names for b in names if a != b)


def parse_nvlink(status: str) -> float:
    """GB/s of all links of a GPU in each direction, from `nvidia-smi nvlink --status`."""
    return sum(float(speed) for speed in re.findall(r"Link \d+: ([\d.]+) GB/s", status))


def _ask(*arguments: str) -> str:
    """What `nvidia-smi` says; nothing where it is not there or fails."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def network_link(environ: Mapping[str, str], *, on_gpus: bool, system: Path = Path("/sys/class")) -> Link:
    """That of ranks on several machines: InfiniBand or RoCE for GPUs where there is one, else a network interface.

    Args:
        environ: of this process.
        on_gpus: whether NCCL sums.
        system: the kernel's files on devices.
    """
    if on_gpus and environ.get("NCCL_IB_DISABLE", "0") == "0":
        ports = [port for port in system.glob("infiniband/*/ports/*") if "ACTIVE" in _read(port / "state")]
        rates = [float(found[1]) / 8 for port in ports if (found := re.match(r"([\d.]+) Gb/sec", _read(port / "rate")))]
        if rates:
            return Link("a port of InfiniBand or RoCE", max(rates))
    named = environ.get("NCCL_SOCKET_IFNAME" if on_gpus else "GLOO_SOCKET_IFNAME", "")
    name = named if (system / "net" / (named or "-")).is_dir() else interface_to(environ.get("MASTER_ADDR", ""))
    speed = _read(system / "net" / name / "speed") if name else ""
    if not name:
        return Link("unknown network interface")
    return Link(f"network interface {name}", int(speed) / 8000 if speed.isdecimal() and int(speed) else None)


def interface_to(address: str) -> str:
    """The network interface through which `address` is reached, or which has it; empty where that cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            target = socket.gethostbyname(address)
            probe.connect((target, 9))  # sends nothing: it asks for the route
            own = probe.getsockname()[0]
    except OSError:
        return ""
    for name, held in psutil.net_if_addrs().items():
        if own in {each.address for each in held}:
            return name
    return ""


def _read(path: Path) -> str:
    """A line of the kernel's; empty where it says none, as of an interface that has no speed."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
