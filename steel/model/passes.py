"""How forward passes are carried out: one after another on a GPU, several at once on a CPU.

Threads that share one pass wait for each other at each of its two hundred operations, and the smaller the image and the
busier the machine, the longer. So a CPU gives each pass one thread and runs as many at once as it has threads to spend;
what comes out then does not depend on their number either. An image that comes alone has one thread for each view.
Passes of a megapixel and more take all threads, one after another: there is enough to share, and several at once would
need as many times the memory.

On a GPU the views of an image share a pass where the passes stay full (`steel.images.geometry.images_per_pass`): an
image that comes alone then takes fewer of them, and images in plenty take no more than without.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import torch

R = TypeVar("R")

PIXELS_PER_PASS_CPU = 1 << 16
"""Where larger batches stop being faster on a CPU. Images a second on two AVX2 cores, in batches of 1, 2, 4 and 8, of
64x416: 21, 27, 29 and 24; of 256x256: 9.7, 11.2, 10.1 and 8.6; of 320x256: 8.6, 7.6, 6.4 and 6.3; of 256x1600: 1.52,
1.38, 1.31 and 1.27 (U-Net on ResNet-18, `python -m bench.predictions --rows forward --encoder resnet18`)."""
PIXELS_PER_PASS_GPU = 1 << 21
"""By reasoning, not by measurement: five images of 256x1600. Launching the 200 kernels of a pass takes the host about
2 ms whatever their size, and a U-Net on ResNet-34 moves about 1 GB per such image, so a recent GPU computes about as
long as the host launches. Smaller passes leave it idle; larger ones waste more on places that stay empty."""
_LARGE_PASS = 1 << 20
"""Pixels from which on a pass takes all threads of a CPU."""


def default_pixels_per_pass(device_type: str) -> int:
    """How many pixels a forward pass should have on a device, in images of one padded size; see `images_per_pass`."""
    return PIXELS_PER_PASS_CPU if device_type == "cpu" else PIXELS_PER_PASS_GPU


@dataclass(frozen=True)
class Passes:
    """Where passes run; made by `open_passes`."""

    pool: Executor | None
    """Threads of a CPU; None runs a pass where and when its result is asked for."""
    ahead: int
    """Batches to begin before what is left to launch of the first is launched, where that has to wait for anything."""
    unread: int = 0
    """Batches that may be under way beside these before the result of the first is asked for."""
    aside: torch.cuda.Stream | None = None
    """Of a GPU: where results go to the host while the next pass runs."""

    def begin(self, task: Callable[[], R], pixels: int) -> Callable[[], R]:
        """Begin a pass over so many pixels; the function that is returned waits for its result."""
        return self.pool.submit(task).result if self.pool is not None and pixels < _LARGE_PASS else task

    def own_work(self, pixels: int) -> AbstractContextManager[None]:
        """A context for what the caller does before and after passes over so many pixels: it too takes one thread."""
        return intra_op_threads(1) if self.pool is not None and pixels < _LARGE_PASS else nullcontext()


def count_passes(device: torch.device) -> int:
    """How many run at once: on a CPU as many as torch may use threads here (`OMP_NUM_THREADS`), else one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@lru_cache
def stream_aside(device: torch.device) -> torch.cuda.Stream:
    """One of a device for good: torch keeps memory that a stream has used for that stream."""
    return torch.cuda.Stream(device)


@contextmanager
def open_passes(device: torch.device) -> Iterator[Passes]:
    """Passes on `device`, `count_passes` of them at once."""
    threads = count_passes(device)
    if threads == 1:
        if device.type == "cuda":  # has the next batch to do while one is waited for
            yield Passes(None, ahead=1, unread=1, aside=stream_aside(device))
        else:
            yield Passes(None, ahead=0)
        return
    pool = ThreadPoolExecutor(threads, "forward-pass", initializer=partial(torch.set_num_threads, 1))
    try:
        yield Passes(pool, threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # its threads have told torch that every later thread shall have one, too


@contextmanager
def intra_op_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads for an operation of this thread inside the block.

    One is best for many small operations: beside other work on the machine, threads wait for each other at each.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
