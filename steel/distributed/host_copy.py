"""Device values that are read later, without a wait for what the device was told to do after them."""

import torch


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
            self._arrived.record()

    def read(self) -> list[float]:
        """The values, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
