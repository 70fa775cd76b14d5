"""Device values that are read later, without a wait for what the device was told to do after them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to host memory.

    From a GPU it goes to pinned memory, behind the work that makes it and ahead of all that follows, with an event that
    says when it is there. `Tensor.tolist` or `.item` would be queued behind everything launched by the time of reading,
    and so would wait for the step under way. On a CPU the copy is there at once.
    """

    def __init__(self, values: torch.Tensor) -> None:
        """Begin to copy `values`; returns before the copy is there."""
        on_gpu = values.device.type == "cuda"
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_gpu)
        self._values.copy_(values.detach(), non_blocking=True)
        self._arrived: torch.cuda.Event | None = torch.cuda.Event() if on_gpu else None
        if self._arrived is not None:
            # That of the copy: with `--device cuda:1` the current GPU is another, which has nothing to do.
            self._arrived.record(torch.cuda.current_stream(values.device))

    def tensor(self) -> Tensor:
        """The copy, once it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values

    def read(self) -> list[float]:
        """The values, once they are there."""
        return self.tensor().tolist()


@contextmanager
def beside(stream: torch.cuda.Stream) -> Iterator[None]:
    """In the block a GPU copies on `stream`, beside what it is told to do elsewhere meanwhile."""
    # A thread's own GPU is the first, and going back to it from a stream would make a context there.
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        yield


def read_beside(stream: torch.cuda.Stream, found: Sequence[Tensor]) -> list[Callable[[], Tensor]]:
    """What a GPU is told to make, copied to the host on `stream`: all it is told from now on need not wait until then.

    Returns:
        What gives each of `found` on the host, once it is there. What is on the CPU already is not copied.
    """
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with beside(stream):
        readers = [HostCopy(each).tensor if each.device.type == "cuda" else partial(_as_it_is, each) for each in found]
    for each in found:
        if each.device.type == "cuda":
            each.record_stream(stream)  # so that its memory is not given to others before
    return readers


def _as_it_is(there: Tensor) -> Tensor:
    return there


class HostCopies:
    """Many tensors on their way to host memory, into buffers that are used again and again.

    From a GPU they go to pinned memory on a stream of their own: the host goes on at once, and the device, which must
    not change them before, with its next work when they are copied. On a CPU they are there at once.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._copied: list[str] = []
        """Names of what was copied last."""
        self._stream: torch.cuda.Stream | None = None
        self._device: torch.device | None = None
        """Of the stream."""
        self._span: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._seconds = 0.0

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the buffers for `tensors`, so that no copy waits until memory is pinned."""
        self._buffers |= {name: self._buffer(name, tensor) for name, tensor in tensors.items()}

    def begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Begin to copy `tensors`, over what was copied before; on one device, but for what is on the CPU anyhow."""
        start = time.perf_counter()
        self.reserve(tensors)
        self._copied = list(tensors)
        device = next((tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"), None)
        if device is None:
            self._copy(tensors)
        else:
            self._copy_aside(tensors, device)
        self._seconds = time.perf_counter() - start

    def wait(self) -> tuple[dict[str, Tensor], float]:
        """The copies by name, once they are there, and the seconds for which host or device was held up by them.

        Also from another thread: a new one's GPU is the first, on which waiting would make a context for this process,
        which takes memory there, whichever GPU the rank computes on.
        """
        held_up = self._seconds
        if self._span is not None:
            begun, arrived = self._span
            with torch.cuda.device(self._device):
                arrived.synchronize()
                held_up = max(held_up, begun.elapsed_time(arrived) / 1000)
        return {name: self._buffers[name] for name in self._copied}, held_up

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._buffers[name].copy_(tensor.detach(), non_blocking=True)

    def _copy_aside(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._stream, self._device = self._stream or torch.cuda.Stream(device), device
        current = torch.cuda.current_stream(device)
        begun, arrived = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            begun.record(self._stream)
            self._copy(tensors)
            arrived.record(self._stream)
        current.wait_event(arrived)
        self._span = begun, arrived

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        """Of the tensor's size, type and order in memory: the copy is then one of plain bytes."""
        former = self._buffers.get(name)
        is_same = former is not None and (former.shape, former.dtype) == (tensor.shape, tensor.dtype)
        if former is not None and is_same and former.stride() == tensor.stride():
            return former
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda", requires_grad=False)
