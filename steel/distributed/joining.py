"""How a process joins its job: the rendezvous, the gloo group beside NCCL, the heartbeat, the launcher it dies with."""

import ipaddress
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psutil
import torch.distributed as dist
from accelerate import InitProcessGroupKwargs
from torch.distributed import distributed_c10d

from steel.distributed.handshake import agree_on_attempt
from steel.distributed.heartbeat import SILENCE_S, Heartbeat
from steel.errors import is_out_of_memory

COLLECTIVE_TIMEOUT_S = 1800.0
"""A collective that waits longer than this fails: rank 0 may tune or write while the others wait."""
_JOIN_SCHEME = "steel-attempt"


def process_group_options() -> InitProcessGroupKwargs:
    """How Accelerate is to make the default process group."""
    options = InitProcessGroupKwargs(timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        options.init_method = f"{_JOIN_SCHEME}://"
    return options


def _join_attempt(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """Torch's way of joining a job, with keys in the job's store that no earlier attempt has used."""
    store, rank, world = next(dist.rendezvous("env://", timeout=timeout))
    name = agree_on_attempt(store, rank, world, timeout_s=COLLECTIVE_TIMEOUT_S)
    yield dist.PrefixStore(f"attempt-{name}", store), rank, world
    raise RuntimeError("a job is joined once")


dist.register_rendezvous_handler(_JOIN_SCHEME, _join_attempt)


def join_hosts() -> dist.ProcessGroup | None:
    """A gloo group of all ranks, of the same attempt of the job; None where the default group is one."""
    if dist.get_backend() == "gloo":
        return None
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    assert isinstance(group, dist.ProcessGroup)  # every rank is a member
    return group


def start_heartbeat(rank: int, world: int, give_up: Callable[[str, int], None]) -> Heartbeat:
    """This rank's heartbeat, over a connection of its own to the job's store."""
    store = distributed_c10d._get_default_store().clone()
    store.set_timeout(timedelta(seconds=SILENCE_S))
    return Heartbeat(store, rank, world, give_up=give_up)


_BROKEN = re.compile(r"gloo|NCCL|Connection (closed|reset) by peer|Broken pipe|Socket Timeout", re.IGNORECASE)


def is_broken_collective(error: BaseException) -> bool:
    """Whether `error` says that the connection to another rank broke.

    NCCL's errors and the store's have classes of their own. Gloo raises a plain RuntimeError, with a file of gloo's in
    its text or the operating system's words for a connection; other libraries' connection errors, such as those to S3,
    are of other classes.
    """
    if is_out_of_memory(error):  # NCCL says that in a DistBackendError too
        return False
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and bool(_BROKEN.search(str(error))))


def meet_in_one_network() -> None:
    """Let gloo listen where the job's first machine can be reached, if it would choose a loopback address.

    Gloo takes the address of the host's name, which many systems resolve to 127.0.1.1; NCCL does not, so that a job on
    GPUs would fail for its gloo group alone.
    """
    first = os.environ.get("MASTER_ADDR")
    if first is None or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((first, 9))  # sends nothing: it asks for the route
            address = probe.getsockname()[0]
        if _is_loopback(address) or not _is_loopback(socket.gethostbyname(socket.gethostname())):
            return
    except OSError:
        return  # the rendezvous says what is wrong
    for name, held in psutil.net_if_addrs().items():
        if address in {each.address for each in held}:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def die_with_launcher(interval_s: float = 0.5) -> None:
    """End this process soon after its launcher is gone: torch elastic starts ranks in sessions of their own, so killing
    the launcher would otherwise leave ranks that go on writing the run folder."""
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" not in os.environ and not _is_accelerate(parent):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def _is_accelerate(process: int) -> bool:
    """Whether `process` is `accelerate launch`, which tells a single process nothing about itself."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return b"accelerate" in file.read()
    except OSError:
        return False
