"""What summing gradients over ranks takes: by the arithmetic of a ring over links' nominal rates, and measured here."""

import time
from typing import NamedTuple

import torch
from torch import distributed, multiprocessing

RANKS_PER_NODE = 8


class Link(NamedTuple):
    """Between ranks that stand next to each other in the ring."""

    name: str
    bytes_per_second: float
    """Nominal, in one direction, for each rank."""
    seconds_per_message: float


NVLINK = Link("NVLink within the node (450 GB/s a GPU)", 450e9, 3e-6)
BETWEEN_NODES = (
    Link("InfiniBand NDR, a card for each GPU (50 GB/s a GPU)", 50e9, 5e-6),
    Link("25 GbE, one card a node (3.1 GB/s for 8 GPUs)", 3.125e9, 30e-6),
)


def ring_seconds(num_bytes: int, ranks: int, link: Link) -> float:
    """An all-reduce around a ring: everything passes each link twice, but for each rank's own part.

    2 (n - 1) / n S / B + 2 (n - 1) t, with n ranks, S bytes, B bytes per second and t seconds per message.
    """
    steps = 2 * (ranks - 1)
    return steps / ranks * num_bytes / link.bytes_per_second + steps * link.seconds_per_message


def reduce_seconds(num_bytes: int, ranks: int, between: Link) -> float:
    """An all-reduce over `ranks` GPUs, eight in each node: within the node, then between nodes, each by a ring.

    Within a node each GPU ends with an eighth of the sums, and exchanges that eighth with its fellows of other nodes.
    The card of a node with one card carries all eight parts.
    """
    inside = ring_seconds(num_bytes, min(ranks, RANKS_PER_NODE), NVLINK)
    nodes = ranks // RANKS_PER_NODE
    if nodes < 2:
        return inside
    shared = RANKS_PER_NODE if between is BETWEEN_NODES[1] else 1
    return inside + ring_seconds(num_bytes * shared // RANKS_PER_NODE, nodes, between)


def measure_gloo(num_bytes: int, repeats: int) -> list[float]:
    """Seconds of summing so many bytes over two processes of this machine by gloo, after one that does not count."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    multiprocessing.spawn(_sum_up, (num_bytes, repeats, results, _free_port()), nprocs=2)
    return results.get()


def _sum_up(rank: int, num_bytes: int, repeats: int, results: "multiprocessing.SimpleQueue", port: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    numbers, times = torch.ones(num_bytes // 4), []
    for _ in range(repeats + 1):
        distributed.barrier()
        start = time.perf_counter()
        distributed.all_reduce(numbers)
        times.append(time.perf_counter() - start)
        numbers.fill_(1)
    if rank == 0:
        results.put(times[1:])
    distributed.destroy_process_group()


def _free_port() -> int:
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True)  # the system chooses one
    return store.port
