"""Programs that start sooner: what Python's garbage collector need not look at."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while the block runs: for imports, whose objects stay.

    Those of torch, smp and timm are a quarter of a million, which the collector would go through again and again while
    they grow: a seventh of the time. Afterwards they count as old, and so are the last to be looked at.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # which puts what was frozen among the oldest
        if was_enabled:
            gc.enable()
