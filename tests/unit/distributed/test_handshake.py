"""Ranks agree on a fresh name for each attempt, whatever the attempts before left in the store."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from steel.distributed.handshake import agree_on_attempt


class DictStore:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def set(self, key: str, value: str) -> None:
        with self.lock:
            self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        with self.lock:
            return self.values[key]

    def check(self, keys: list[str]) -> bool:
        with self.lock:
            return all(key in self.values for key in keys)


def agree(store: DictStore, world: int, late: int | None = None) -> set[str]:
    """The names that the ranks come away with; rank `late` joins last."""

    def join(rank: int) -> str:
        if rank == late:
            time.sleep(0.2)
        return agree_on_attempt(store, rank, world, timeout_s=10)

    with ThreadPoolExecutor(world) as pool:
        return set(pool.map(join, range(world)))


def test_attempts_of_changing_worlds_have_names_of_their_own() -> None:
    store, names = DictStore(), []
    for world, late in ((4, None), (4, 0), (3, 2), (2, 1), (2, 0), (1, None)):
        found = agree(store, world, late)
        assert len(found) == 1
        names += found
    assert len(set(names)) == len(names)


def test_who_does_not_come_is_named() -> None:
    with pytest.raises(TimeoutError, match="ranks 1, 2 did not join"):
        agree_on_attempt(DictStore(), 0, 3, timeout_s=0.1)
    with pytest.raises(TimeoutError, match="rank 0 did not join"):
        agree_on_attempt(DictStore(), 1, 3, timeout_s=0.1)
