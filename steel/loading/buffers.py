"""Batches from workers without a copy: they write into shared buffers that are used again and again.

Fresh shared memory is slow: its pages take longer to make than to write. A pool made before the workers are forked is
plain anonymous memory, so a small `/dev/shm` does not matter either. Where a GPU copies from the buffers, CUDA can be
told of the pool once, instead of each batch being copied to pinned memory.
"""

import contextlib
import logging
import mmap
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import get_worker_info

from steel.loading.upcoming import with_upcoming
from steel.loading.workers import DEFAULT_START, PREFETCH, StartMethod, ordered_map

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Rest = TypeVar("Rest")
Allocate = Callable[[int], torch.Tensor]
"""Makes an uninitialised uint8 tensor of so many bytes."""
Work = Callable[[Item, Allocate], tuple[torch.Tensor, Rest]]
_BYTES_AHEAD = 1 << 29
"""Of all batches that workers are ahead; at least one each, however large."""
_HELD = 3
"""Batches that the consumer may hold while workers fill all others."""


class _Registered(NamedTuple):
    """Memory that CUDA knows."""

    address: int
    mapping: mmap.mmap
    """Must not go before CUDA has given it up."""


_unused: list[_Registered] = []
"""Of pools that are gone, until CUDA is told of the next one."""


class BufferPool:
    """Buffers of one size, shared with workers forked later. The parent takes them and gets them back."""

    def __init__(self, num_buffers: int, num_bytes: int) -> None:
        self.num_bytes = num_bytes + -num_bytes % 64  # so that every buffer starts aligned
        self._mapping = mmap.mmap(-1, max(1, num_buffers * self.num_bytes))
        self._memory = np.frombuffer(self._mapping, np.uint8)
        self._free = deque(range(num_buffers))
        self._pinned: bool | None = None

    def pin(self) -> bool:
        """Register the memory with CUDA, once; every call says whether it is pinned.

        To be called when the workers have been forked: they know the memory as plain.
        """
        if self._pinned is None:
            self._pinned = _register(self._memory, self._mapping)
        return self._pinned

    def take(self) -> int | None:
        """The number of a free buffer; None when all are in use."""
        return self._free.popleft() if self._free else None

    def view(self, number: int, num_bytes: int) -> torch.Tensor:
        """The first bytes of a buffer, as a worker sees them."""
        start = number * self.num_bytes
        return torch.from_numpy(self._memory[start : start + num_bytes])

    def lend(self, number: int, num_bytes: int) -> torch.Tensor:
        """As `view`; the buffer is free again when this tensor and all views of it are gone."""
        start = number * self.num_bytes
        array = self._memory[start : start + num_bytes]  # its tensors' storage keeps just this object alive
        weakref.finalize(array, self.give_back, number).atexit = False
        return torch.from_numpy(array)

    def give_back(self, number: int) -> None:
        """A buffer that was taken is free again."""
        self._free.append(number)


def ordered_batches(
    work: Work[Item, Rest],
    items: Iterable[Item],
    *,
    buffer_bytes: int,
    workers: int,
    pin_memory: bool = False,
    pin_in_place: bool = False,
    prepare: Callable[[Item], None] | None = None,
    ahead: int = 0,
    on_start: Callable[[int, int], None] | None = None,
    start_method: StartMethod = DEFAULT_START,
) -> Generator[tuple[torch.Tensor, Rest], None, None]:
    """`work(item, allocate)` of every item, in order; see `steel.loading.workers.ordered_map`.

    Args:
        work: makes a buffer, which came from `allocate`, and what else belongs to the batch.
        items: what to make.
        buffer_bytes: the usual size of a batch's buffer; larger ones travel more slowly.
        workers: number of processes; 0 works in this one.
        pin_memory: hand over buffers in pinned memory, if there is CUDA: a copy of what the workers made.
        pin_in_place: without that copy: the shared buffers are pinned themselves, once, where CUDA lets them be. Who
            copies from them without waiting must hold a batch until its copy is done: a worker then fills it again.
        prepare: called with an item some time before `work` is, in whichever process: to ask a disk for what it needs.
        ahead: how many items before, beside those that workers have begun.
        on_start: see `ordered_map`.
        start_method: see `ordered_map`.
    """
    pin_memory = pin_memory and torch.cuda.is_available()
    pooled = workers > 0 and start_method == "fork"
    prefetch = max(1, min(PREFETCH, _BYTES_AHEAD // max(1, workers * buffer_bytes)))
    pool = BufferPool(workers * prefetch + _HELD, buffer_bytes) if pooled else None
    asked = (
        (None if pool is None else pool.take(), item, coming)
        for item, coming in with_upcoming(items, max(1, workers) + ahead)
    )
    for sent, rest in ordered_map(
        _PooledWork(work, prepare, pool),
        asked,
        workers=workers,
        prefetch=prefetch,
        on_start=on_start,
        start_method=start_method,
    ):
        buffer, pinned = sent.fresh, False
        if pool is not None and sent.number is not None:
            if buffer is None:
                buffer = pool.lend(sent.number, sent.num_bytes)
                pinned = pin_memory and pin_in_place and pool.pin()
            else:
                pool.give_back(sent.number)
        assert buffer is not None
        yield buffer.pin_memory() if pin_memory and not pinned else buffer, rest


class _Sent(NamedTuple):
    """A buffer on its way."""

    number: int | None
    """Of the pooled buffer that was offered."""
    num_bytes: int
    fresh: torch.Tensor | None
    """The tensor itself, when the bytes are not in the pool."""


class _PooledWork(Generic[Item, Rest]):
    """Gives `work` the pooled buffer that came with the item, or a fresh one if that is too small or missing."""

    def __init__(self, work: Work[Item, Rest], prepare: Callable[[Item], None] | None, pool: BufferPool | None) -> None:
        self.work, self.prepare, self.pool = work, prepare, pool

    def __call__(self, asked: tuple[int | None, Item, tuple[Item, ...]]) -> tuple[_Sent, Rest]:
        number, item, coming = asked
        pool = self.pool
        if self.prepare is not None:
            for other in coming:
                self.prepare(other)

        def allocate(num_bytes: int) -> torch.Tensor:
            if pool is None or number is None or num_bytes > pool.num_bytes:
                return _fresh_buffer(num_bytes)
            return pool.view(number, num_bytes)

        buffer, rest = self.work(item, allocate)
        in_pool = pool is not None and number is not None and buffer.numel() <= pool.num_bytes
        return _Sent(number, buffer.numel(), None if in_pool else buffer), rest


def _fresh_buffer(num_bytes: int) -> torch.Tensor:
    """An uninitialised buffer; in a worker already in shared memory, so that it travels without a copy."""
    if get_worker_info() is None:
        return torch.empty(num_bytes, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(num_bytes)  # as torch's own collation does
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,), (1,))


def _register(memory: np.ndarray, mapping: mmap.mmap) -> bool:
    """Pin `memory`, all of `mapping`, where it is; whether CUDA did so.

    Memory of pools that are gone is given up here, and not when they go: that may wait for all work on the device, in
    vain where a rank is about to leave a job whose others are lost.
    """
    cudart = torch.cuda.cudart()
    for unused in _unused:
        cudart.cudaHostUnregister(unused.address)
    _unused.clear()
    address = memory.ctypes.data
    problem = int(cudart.cudaHostRegister(address, memory.nbytes, 1))  # 1: for all devices
    if problem:
        logger.warning(
            "CUDA cannot register the loader's %.0f MB of buffers (error %d): each batch is copied to pinned memory",
            *(memory.nbytes / 1e6, problem),
        )
        with contextlib.suppress(RuntimeError):  # the error is left behind for the next kernel: let it be this one
            torch.zeros(1, device="cuda")
        return False
    weakref.finalize(memory, _unused.append, _Registered(address, mapping)).atexit = False
    return True
