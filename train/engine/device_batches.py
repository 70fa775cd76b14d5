"""Micro-batches on the device before they are needed: the next one is copied while the network computes with one."""

import contextlib
from collections import deque
from collections.abc import Generator
from dataclasses import replace
from typing import NamedTuple

import torch

from steel.loading.train_loader import MicroBatch


def device_batches(
    batches: Generator[MicroBatch, None, None], device: torch.device
) -> Generator[MicroBatch, None, None]:
    """`batches` with images, targets and pairs on `device`; closing them closes `batches`.

    For a GPU each micro-batch is taken, and its copy begun on a stream of its own, before the one ahead of it is handed
    over. So a loader that is late holds up the one ahead, too, by what that takes to compute and no more. An error in
    taking one is raised when that one's turn has come. On a CPU they are handed over as they are.

    Args:
        batches: in pinned memory, if the host is not to wait; each is held until its copy is done.
        device: to compute on.
    """
    return _copied_ahead(batches, device) if device.type == "cuda" else batches


class _OnItsWay(NamedTuple):
    batch: MicroBatch
    """On the device, once `arrived` has passed."""
    arrived: torch.cuda.Event


def _copied_ahead(
    batches: Generator[MicroBatch, None, None], device: torch.device
) -> Generator[MicroBatch, None, None]:
    # The copies are waited for first: what they read belongs to `batches`.
    with contextlib.closing(batches), contextlib.closing(_Copies(batches, device)) as copies:
        here = copies.begin_next()
        while here is not None:
            problem, following = None, None
            try:
                following = copies.begin_next()
            except Exception as error:  # of a micro-batch that may never be asked for
                problem = error
            yield copies.hand_over(here)
            if problem is not None:
                raise problem
            here = following


class _Copies:
    """From the host to a GPU, on a stream of their own."""

    def __init__(self, batches: Generator[MicroBatch, None, None], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._held: deque[tuple[torch.cuda.Event, MicroBatch]] = deque()
        """What copies read that are not known to be done: a loader's workers must not fill it again before."""

    def begin_next(self) -> _OnItsWay | None:
        """Take the next micro-batch and begin to copy it; None when there are no more. Waits for no copy."""
        while self._held and self._held[0][0].query():
            self._held.popleft()
        batch = next(self._batches, None)
        if batch is None:
            return None
        arrived = torch.cuda.Event()
        self._held.append((arrived, batch))
        with torch.cuda.stream(self._stream):
            copied = replace(
                batch,
                images=batch.images.to(self._device, non_blocking=True),
                targets=batch.targets.to(self._device, non_blocking=True),
                pairs=None if batch.pairs is None else batch.pairs.to(self._device, non_blocking=True),
            )
            arrived.record(self._stream)
        return _OnItsWay(copied, arrived)

    def hand_over(self, on_its_way: _OnItsWay) -> MicroBatch:
        """The micro-batch, for work that the current stream is told to do from now on."""
        batch, current = on_its_way.batch, torch.cuda.current_stream(self._device)
        current.wait_event(on_its_way.arrived)
        for tensor in (batch.images, batch.targets, batch.pairs):
            if tensor is not None:
                tensor.record_stream(current)  # its memory is the other stream's, which must not use it before
        return batch

    def close(self) -> None:
        """Wait for the copies under way, if there are any, and let go of what they read."""
        for arrived, _ in self._held:
            arrived.synchronize()
        self._held.clear()
