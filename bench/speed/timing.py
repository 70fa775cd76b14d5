"""Stopwatches that both environments share; the standard library only."""

import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """What one repeat of one side did."""

    items: int
    seconds: float


def time_passes(iterate: Callable[[], Iterable[Any]], *, seconds: float) -> Measure:
    """Whole passes for at least so long; the clock runs from each pass's first item to its last.

    Leaving out what comes before the first item favours readers that start threads for every pass.
    """
    items, spent = 0, 0.0
    while spent < seconds:
        iterator = iter(iterate())
        next(iterator)
        start = time.perf_counter()
        items += sum(1 for _ in iterator)
        spent += time.perf_counter() - start
    return Measure(items, spent)


def time_whole(iterate: Callable[[], Iterable[Any]]) -> Measure:
    """One pass, from making the reader to the last item."""
    start = time.perf_counter()
    items = sum(1 for _ in iterate())
    return Measure(items, time.perf_counter() - start)


def time_stretch(batches: Iterator[Any], *, batch_size: int, skip: int, count: int) -> Measure:
    """`count` batches of a running loader, after `skip` batches that fill its queues."""
    for _ in islice(batches, skip):
        pass
    start = time.perf_counter()
    items = sum(batch_size for _ in islice(batches, count))
    assert items == count * batch_size, "the loader ended early"
    return Measure(items, time.perf_counter() - start)


def in_child(measure: Callable[[], Measure]) -> Measure:
    """The measure taken in a forked child, so that no reader, map or connection of an earlier repeat helps or hinders.

    Raises:
        Exception: whatever the child raised.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer: Any
        try:
            answer = measure()
        except BaseException as error:
            answer = RuntimeError(f"{type(error).__name__}: {error}")
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)  # threads of the readers are not waited for
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    if isinstance(answer, Exception):
        raise answer
    return answer
