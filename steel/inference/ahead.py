"""What images need besides the network, done on threads while it runs, and ahead of its use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

import numpy as np

T = TypeVar("T")
R = TypeVar("R")
_TASKS = 8
"""Images that are ahead of their use, a thread."""
_PIXELS = 1 << 26
"""And pixels: of large images, fewer at once."""


class Ahead:
    """How much is done ahead of its use."""

    def __init__(self, threads: int) -> None:
        self._most = _TASKS * threads
        self._largest = 1

    def saw(self, image: np.ndarray) -> None:
        """An image (H, W, ...) has come: more of its size may follow."""
        self._largest = max(self._largest, image.shape[0] * image.shape[1])

    def map(self, pool: Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """As `pool.map`, in order, but never more than a few results ahead of their use."""
        tasks: deque[Future[R]] = deque()
        try:
            for item in items:
                tasks.append(pool.submit(function, item))
                while len(tasks) > max(1, min(self._most, _PIXELS // self._largest)):
                    yield tasks.popleft().result()
            while tasks:
                yield tasks.popleft().result()
        finally:
            for task in tasks:
                task.cancel()
