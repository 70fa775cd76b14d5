"""How long steps take on the device, which has one still to do when the host goes on, and wait for their data."""

import time
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")

Moment = float | torch.cuda.Event


def moment(device: torch.device) -> Moment:
    """The one at which `device` will have done all that it has been told so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(first: Moment, last: Moment) -> float:
    """On one device, once both have passed."""
    if isinstance(first, float) or isinstance(last, float):
        return float(last) - float(first)  # type: ignore[arg-type]
    return first.elapsed_time(last) / 1000


class Stopwatch:
    """Adds up the time of steps, each from the end of the one before it, or from a start."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Begin anew, and leave out what came between two steps, such as a validation."""
        self._images, self._seconds, self._since = 0, 0.0, moment(self._device)

    def lap(self) -> Moment:
        """The end of the step that the device has just been told to do, for `add` once it has passed."""
        return moment(self._device)

    def add(self, images: int, end: Moment) -> None:
        """Count a step of so many images."""
        self._images += images
        self._seconds += seconds_between(self._since, end)
        self._since = end

    def take(self) -> tuple[int, float]:
        """Images and seconds of the steps since the last call or start."""
        images, seconds = self._images, self._seconds
        self._images, self._seconds = 0, 0.0
        return images, seconds


class TimedIterator(Generic[Item]):
    """An iterator that knows how long its consumer has waited for it: time of the host alone."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._waited = 0.0

    def __iter__(self) -> "TimedIterator[Item]":
        """Itself."""
        return self

    def __next__(self) -> Item:
        """The next item."""
        begun = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self._waited += time.perf_counter() - begun

    def take_seconds(self) -> float:
        """Waited for since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited
