"""What torch is asked to do, operation by operation."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Notes in `done` each operation's name, with the shape of the first tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args and isinstance(args[0], torch.Tensor) else torch.empty(0)
        self.done.append((func.overloadpacket.__name__, tuple(first.shape)))
        return func(*args, **(kwargs or {}))

    def shapes(self, name: str) -> list[tuple[int, ...]]:
        """Of all operations of that name, in their order."""
        return [shape for each, shape in self.done if each == name]
