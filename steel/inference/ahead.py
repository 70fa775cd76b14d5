"""What images need besides the network, done on threads while it runs, and ahead of its use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from steel.images.decode import count_pixels, decode_image
from steel.images.exif import UPRIGHT, exif_orientation
from steel.images.listing import ImageRecord, why_unreadable
from steel.images.pixel_format import Depth

T = TypeVar("T")
R = TypeVar("R")
_TASKS = 8
"""Results that are ahead of their use, a thread."""
_SIZE = 1 << 26
"""And pixels of images, or bytes of files: of large ones, fewer at once."""


def map_ahead(
    pool: Executor,
    threads: int,
    function: Callable[[T], R],
    items: Iterable[T],
    size_of: Callable[[T], int] = lambda item: 0,
    *,
    at_once: bool = False,
) -> Iterator[R]:
    """As `pool.map`, in order, but never more than a few results, or a single large one, ahead of their use.

    Args:
        pool: runs the function.
        threads: of the pool.
        function: of an item.
        items: taken only as far as needed.
        size_of: what an item or its result takes, in pixels or bytes; known before the function runs, so that many
            large ones are never begun at once.
        at_once: give a result as soon as it is there, where by default the first waits until as many as may be are
            ahead of it: for what takes long to come, and is not to be lost where it ends before its time.
    """
    tasks: deque[tuple[Future[R], int]] = deque()
    held = 0
    try:
        for item in items:
            tasks.append((pool.submit(function, item), size_of(item)))
            held += tasks[-1][1]
            while _is_due(tasks, threads, held, at_once):
                task, size = tasks.popleft()
                held -= size
                yield task.result()
        while tasks:
            yield tasks.popleft()[0].result()
    finally:
        for task, _ in tasks:
            task.cancel()


def _is_due(tasks: Sequence[tuple[Future[R], int]], threads: int, held: int, at_once: bool) -> bool:
    """Whether the first result is given now, before anything more is begun."""
    is_full = len(tasks) > 1 and (len(tasks) > _TASKS * threads or held > _SIZE)
    return is_full or (at_once and len(tasks) > 0 and tasks[0][0].done())


class DecodedImage(NamedTuple):
    """An image as the network is shown it."""

    pixels: np.ndarray
    """(H, W) or (H, W, 3) uint8."""
    is_turned: bool
    """Whether EXIF asks viewers to turn it."""


def decode_ahead(
    pool: Executor, threads: int, records: Iterable[ImageRecord], channels: int, depth: Depth
) -> Iterator[DecodedImage | str]:
    """The images of a folder, in order, or why one cannot be had; channels and depth are those of `decode_image`.

    Raises:
        ResourceError, OSError: see `why_unreadable`.
    """
    files = map_ahead(pool, threads, _read, records, lambda record: record.size)
    decode = partial(_decode, channels=channels, depth=depth)
    return map_ahead(pool, threads, decode, files, lambda file: 0 if isinstance(file, str) else file.pixels)


class _File(NamedTuple):
    data: bytes
    pixels: int


def _read(record: ImageRecord) -> _File | str:
    try:
        data = record.read()
    except (OSError, ValueError) as error:
        return why_unreadable(record, error)
    try:
        return _File(data, count_pixels(data))
    except ValueError:  # decoding has the better word for it
        return _File(data, 0)


def _decode(file: _File | str, channels: int, depth: Depth) -> DecodedImage | str:
    if isinstance(file, str):
        return file
    try:
        return DecodedImage(decode_image(file.data, channels, depth), exif_orientation(file.data) != UPRIGHT)
    except ValueError as error:
        return str(error)
