"""Running statistics of normalisation layers in training: as one rank would have them, and put back by refused steps.

A layer with momentum m makes r into (1 - m) * r + m * s with the statistics s of each micro-batch. That is linear in s,
so what one rank would have after all k micro-batches of a step follows from what each rank has after its own [a, b):

    result = r0 + sum over the ranks of (1 - m)**(k - b) * (r - r0)

where all ranks began the step at r0. (In r - r0 = (r - (1 - m)**(b - a) * r0) - (1 - (1 - m)**(b - a)) * r0 the last
terms, weighted, add up to (1 - (1 - m)**k) * r0.) A layer that runs as in evaluation keeps its r0 bit for bit.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from steel.errors import InputError

_ALIGNED_BYTES = 16
"""Where a compiled graph takes tensors as they lie. Others it copies, and one of those that it changes, as it does
these, keeps it from being recorded as a CUDA graph."""


class Statistics(NamedTuple):
    """Running statistics at one moment, of all layers in a row, with zeros up to where the next may begin."""

    values: Tensor
    """Means and variances, float32 (in the type of a network that has another)."""
    counts: Tensor
    """`num_batches_tracked` of each layer that counts, int64."""


class RunningStatistics:
    """The running means and variances of a network: BatchNorm's, and of other layers that keep them in the same way.

    They lie in one flat tensor, of which the layers' buffers are views, so that what a step needs of them costs a few
    operations, whatever the number of layers.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take over the statistics of `model`, which is on its device by now.

        Raises:
            InputError: a layer whose statistics no sum over ranks can make independent of their number.
        """
        layers = list(_layers(model))
        self._owners = [
            (layer, name) for layer in layers for name in ("running_mean", "running_var") if _has(layer, name)
        ]
        self._counters = [(layer, "num_batches_tracked") for layer in layers if _has(layer, "num_batches_tracked")]
        self._now = Statistics(_as_one(self._owners, torch.float32), _as_one(self._counters, torch.int64))
        keep = [torch.full_like(getattr(layer, name), _keeps(layer)) for layer, name in self._owners]
        self._keep = _in_a_row(keep, torch.float32)
        """What a value keeps of itself in each update: 1 - momentum."""
        self._first = getattr(*self._owners[0]) if self._owners else None
        """The first layer's buffer."""

    def take(self) -> Statistics:
        """A copy of them as they are, for `settle`."""
        # `Module.to` gives every layer new buffers, even from `cpu` to `cpu:0`.
        assert not self._owners or getattr(*self._owners[0]) is self._first, "the network has been moved"
        return Statistics(self._now.values.clone(), self._now.counts.clone())

    def put_back(self, before: Statistics) -> None:
        """Make them what they were when `before` was taken."""
        self._now.values.copy_(before.values)
        self._now.counts.copy_(before.counts)

    def hold(self, buffer: Tensor) -> bool:
        """Whether `buffer` is one of them."""
        return any(buffer.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr() for flat in self._now)

    @torch.no_grad()
    def settle(
        self, before: Statistics, refused: Tensor, share: range, total: int, all_reduce: Callable[[Tensor], None]
    ) -> None:
        """End a step: what one rank would have after all its micro-batches; `before` where the step is refused.

        A forward pass with a non-finite value poisons running statistics for good, so a refused step takes them back.

        Args:
            before: what `take` gave at the step's beginning, the same on every rank.
            refused: 0-d, on the device; above 0 where the step is refused, the same on every rank.
            share: which of the step's micro-batches this rank has computed: a stretch of them, in order.
            total: micro-batches of the step; where they are all this rank's, nothing is summed.
            all_reduce: sums a tensor over the ranks, in place.
        """
        values, counts = self._now
        if not values.numel():
            return
        if len(share) < total:
            moved = (values - before.values) * self._keep.pow(total - share.stop)
            all_reduce(moved)
            values = before.values + moved
            counts = before.counts + (counts - before.counts) * total // len(share)
        self._now.values.copy_(torch.where(refused > 0, before.values, values))
        self._now.counts.copy_(torch.where(refused > 0, before.counts, counts))


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """The layers that keep running statistics, with a momentum; timm has some of its own beside torch's."""
    for name, layer in model.named_modules():
        if not (_has(layer, "running_mean") or _has(layer, "running_var")) or not hasattr(layer, "momentum"):
            continue
        if layer.momentum is None:
            raise InputError(
                f"model: {name} averages over all micro-batches so far (momentum None), which depends on the number of "
                "processes; give it a momentum or choose another encoder"
            )
        if isinstance(layer, nn.SyncBatchNorm):
            raise InputError(
                f"model: {name} is a SyncBatchNorm, whose results depend on the number of processes; use BatchNorm, "
                "whose running statistics do not"
            )
        yield layer


def _keeps(layer: nn.Module) -> float:
    return 1 - cast(float, layer.momentum)


def _has(layer: nn.Module, name: str) -> bool:
    return isinstance(getattr(layer, name, None), Tensor)


def _as_one(buffers: list[tuple[nn.Module, str]], dtype: torch.dtype) -> Tensor:
    """Move buffers of layers into one flat tensor, see `_in_a_row`, and make them views of it."""
    tensors = [getattr(layer, name) for layer, name in buffers]
    flat = _in_a_row(tensors, dtype)
    for (layer, name), tensor, part in zip(buffers, tensors, flat.split([*map(_room, tensors)]), strict=True):
        # As `data`, for views would share one version counter: a layer that changes its own buffer would make autograd
        # believe that those of the layers before it, which their backward passes need, had changed as well.
        setattr(layer, name, part[: tensor.numel()].view_as(tensor).data)
    return flat


def _in_a_row(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Tensors, all of one type and on one device, as one flat one in which each begins aligned, with zeros between.

    Without any it is empty, of `dtype`.
    """
    if not tensors:
        return torch.empty(0, dtype=dtype)
    flat = torch.cat([nn.functional.pad(tensor.flatten(), (0, _room(tensor) - tensor.numel())) for tensor in tensors])
    assert all(tensor.dtype == flat.dtype for tensor in tensors), flat.dtype
    return flat


def _room(tensor: Tensor) -> int:
    """Elements that it takes in a row, whose next one begins aligned."""
    step = _ALIGNED_BYTES // tensor.element_size()
    return tensor.numel() + -tensor.numel() % step
