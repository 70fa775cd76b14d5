"""Images a second: how long steps took on the device, which has a step still to do when the host goes on."""

import time

import torch

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

    def take_rate(self) -> float | None:
        """Images a second of the steps since the last rate or start; None when there is no time to divide by."""
        images, seconds = self._images, self._seconds
        self._images, self._seconds = 0, 0.0
        return round(images / seconds, 2) if seconds > 0 else None
