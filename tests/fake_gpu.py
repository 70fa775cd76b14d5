"""A GPU that is not there: what a program asks of it runs on shapes alone, and what would wait for it is noted.

FakeTensorMode stands in for the device, without values; a dispatch mode on top sees each operation, those of a backward
pass too. Autograd's own engine asks the CUDA driver for streams, so that a plain one in Python takes its place.
"""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steel.model.passes import stream_aside

GPU = torch.device("cuda", 0)

WAITING = {
    *("_local_scalar_dense", "is_nonzero", "equal"),  # values that the host reads
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),  # sizes that the host reads
    *("bincount", "histc", "repeat_interleave", "_linalg_check_errors", "multinomial"),
}
"""Operations whose CUDA kernels make the host wait."""


class HostWaits(TorchDispatchMode):
    """Notes in `waits` what makes the host wait for the device, and in `events` what becomes of CUDA events."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.events: list[str] = []
        self.operations: list[str] = []
        """On the device."""
        self.copies: list[str] = []
        """Between host and device, with the stream that they are on."""
        self.stream = "stream"
        """The current one."""
        self.chosen: list[torch.device] = []
        """What the block chose as its GPU, and those around it."""
        self.waited_on: list[torch.device | None] = []
        """The GPU that was chosen at each wait for an event."""
        self._pinned: list[torch.UntypedStorage] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device.type == "cuda" for tensor in tensors):
            self.operations.append(name)
            if name in WAITING or (name.startswith(("index", "_index")) and any(map(_is_mask, tree_leaves(args[1:2])))):
                self.waits.append(name)
            if name.startswith(("index", "_index")) and any(map(_is_on_host, tree_leaves(args[1:2]))):
                self.waits.append("copy cpu to cuda")  # which CUDA's kernel begins with
        if name == "_local_scalar_dense":
            return 0.0  # a fake tensor has no value; any will do
        if name == "_amp_update_scale_":
            return args[0]  # one kernel, which fake tensors do not have
        if name == "is_pinned":
            return self._is_pinned(args[0])
        if name in ("pin_memory", "_pin_memory"):  # which fake tensors do not have; gaps are kept
            (tensor,) = args[:1]
            func, args, kwargs = torch.ops.aten.empty_strided.default, (tensor.shape, tensor.stride()), {}
            kwargs["dtype"] = tensor.dtype
        if name == "copy_":
            self._note_copy(args[1], args[0].device, self._is_pinned(args[0]), _is_non_blocking(func, args, kwargs))
        result = func(*args, **kwargs)
        if name in ("_to_copy", "to"):  # the latter in inference mode
            # What `to(non_blocking=True)` makes for itself on the host is pinned.
            self._note_copy(args[0], result.device, True, _is_non_blocking(func, args, kwargs))
        if kwargs.get("pin_memory") or name in ("pin_memory", "_pin_memory"):
            self._pinned.append(result.untyped_storage())
        return result

    def _note_copy(self, source: torch.Tensor, target: torch.device, is_pinned: bool, non_blocking: bool) -> None:
        if source.device.type == target.type:
            return
        self.copies.append(f"{source.device.type} to {target.type} on {self.stream}")
        if source.device.type == "cpu":  # torch copies what has gaps to memory of its own first, which is not pinned
            is_pinned = self._is_pinned(source) and is_non_overlapping_and_dense_or_false(source)
        if not (non_blocking and is_pinned):
            self.waits.append(f"copy {source.device.type} to {target.type}")

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return any(tensor.untyped_storage()._cdata == storage._cdata for storage in self._pinned)


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _is_on_host(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.device.type == "cpu"


def _is_non_blocking(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a copy was told not to block."""
    names = [argument.name for argument in func._schema.arguments]
    return bool((dict(zip(names, args, strict=False)) | kwargs).get("non_blocking", False))


@contextlib.contextmanager
def fake_gpu() -> Iterator[HostWaits]:
    """In the block `GPU` is a device without values; what would make the host wait for it is noted.

    Events are told by number, in the order in which they are recorded.
    """
    noted = HostWaits()
    count = iter(range(1 << 30))

    class Stream:
        """Of the device: the one that runs the network, or one beside it."""

        def __init__(self, device: torch.device = GPU, name: str = "side stream") -> None:
            self.device, self.name = device, name

        def wait_stream(self, stream: "Stream") -> None:
            noted.events.append(f"{self.name} waits for {stream.name}")

        def wait_event(self, event: "Event") -> None:
            noted.events.append(f"{self.name} waits for {event.number}")

    current = Stream(name="stream")

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self.number = -1

        def record(self, stream: object = None) -> None:
            self.number = next(count)
            noted.events.append(f"record {self.number}")

        def synchronize(self) -> None:
            noted.events.append(f"wait for {self.number}")
            noted.waited_on.append(noted.chosen[-1] if noted.chosen else None)

        def query(self) -> bool:
            return True

        def elapsed_time(self, end: "Event") -> float:
            return 1.0

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        before, noted.stream = noted.stream, stream.name
        yield
        noted.stream = before

    @contextlib.contextmanager
    def choose(device: torch.device) -> Iterator[None]:
        noted.chosen.append(device)
        yield
        noted.chosen.pop()

    real_numpy = torch.Tensor.numpy

    def numpy(tensor: torch.Tensor) -> np.ndarray:
        """Zeros for values that are not there."""
        assert tensor.device.type == "cpu", "numpy cannot see the device's memory"
        if not isinstance(tensor, FakeTensor):
            return real_numpy(tensor)
        return np.full(tensor.shape, tensor.dtype == torch.bool, str(tensor.dtype)[6:])  # all is well, and else nothing

    def record_stream(tensor: torch.Tensor, stream: Stream) -> None:
        noted.events.append(f"{stream.name} uses a {tensor.dtype}")

    stream_aside.cache_clear()
    with contextlib.ExitStack() as stack:
        stack.callback(stream_aside.cache_clear)
        stack.enter_context(patch.object(torch.cuda, "Event", Event))
        stack.enter_context(patch.object(torch.cuda, "Stream", Stream))
        stack.enter_context(patch.object(torch.cuda, "stream", on))
        stack.enter_context(patch.object(torch.cuda, "device", choose))
        stack.enter_context(patch.object(torch.cuda, "current_stream", lambda device=None: current))
        stack.enter_context(patch.object(torch.cuda, "synchronize", lambda device=None: noted.waits.append("cuda")))
        stack.enter_context(patch.object(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True))
        stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(patch.object(torch.Tensor, "record_stream", record_stream))
        stack.enter_context(patch.object(torch.Tensor, "backward", backward))
        stack.enter_context(patch.object(torch.Tensor, "numpy", numpy))
        stack.enter_context(patch.object(nn.Module, "to", _to))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(noted)


@contextlib.contextmanager
def accelerator_of(precision: str) -> Iterator[Accelerator]:
    """Accelerate's view of a process whose device is `GPU`, inside of `fake_gpu`: autocast, and the scaler of fp16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        PartialState(cpu=True)
        PartialState._shared_state["device"] = GPU
        with patch.dict(os.environ, {"ACCELERATE_USE_CPU": "false"}):  # what tests without a GPU have set
            yield Accelerator(mixed_precision=precision)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def _to(module: nn.Module, device: Any = None, memory_format: torch.memory_format | None = None) -> nn.Module:
    """`Module.to`, which cannot swap real or fake tensors for others that are fake."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        layout = memory_format if memory_format and tensor.ndim == 4 else torch.preserve_format
        return torch.empty_like(tensor, device=device or tensor.device, memory_format=layout)

    for each in module.modules():
        for name, parameter in each.named_parameters(recurse=False):
            each.register_parameter(name, nn.Parameter(moved(parameter), parameter.requires_grad))
        for name, buffer in each.named_buffers(recurse=False):
            each.register_buffer(name, moved(buffer))
    return module


@torch.no_grad()
def backward(loss: torch.Tensor) -> None:
    """`Tensor.backward`, node by node: the same derivatives in the same operations, without torch's engine."""
    order, todo = [], [(loss.grad_fn, False)]
    seen: set[Any] = set()
    while todo:
        node, is_done = todo.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            todo += [(node, True), *((after, False) for after, _ in node.next_functions if after is not None)]
    gradients: dict[Any, dict[int, torch.Tensor]] = defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    for node in reversed(order):
        arrived = gradients.pop(node, {})
        if hasattr(node, "variable"):
            grad, parameter = arrived[0], node.variable
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
            continue
        found = node(*(arrived.get(place) for place in range(len(node._input_metadata))))
        found = found if isinstance(found, tuple) else (found,)
        for (after, place), grad in zip(node.next_functions, found, strict=True):
            if after is not None and grad is not None:
                metadata = after._input_metadata[place]  # what was broadcast in the forward pass is summed
                grad = grad.sum_to_size(metadata.shape).to(metadata.dtype)
                before = gradients[after].get(place)
                gradients[after][place] = grad if before is None else before + grad
