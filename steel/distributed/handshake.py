"""Agrees on a name for this attempt of the job: what its ranks tell each other in the job's store bears that name.

torchrun keeps one store through all restarts. Without a name of its own, a restarted rank may read where another rank
listened in the attempt before, connect to nobody, and fail or wait. Counting restarts will not do: each node counts
those that its own ranks caused.
"""

import json
import time
import uuid
from typing import Protocol

INTERVAL_S = 0.05


class Store(Protocol):
    """The part of torch.distributed's key-value store that this needs."""

    def set(self, key: str, value: str) -> None:
        """Write a value, as text, under a key."""

    def get(self, key: str) -> bytes:
        """The value under a key; waits until it is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys have been written."""


def agree_on_attempt(store: Store, rank: int, world: int, *, timeout_s: float) -> str:
    """The name of this attempt, the same on all ranks and never used before.

    Each rank but 0 leaves a mark that is new; rank 0 answers with the name and the marks it has seen, again and again,
    until every rank has found its own mark in an answer and confirmed the name. Leftovers of earlier attempts hold
    other marks and other names.

    Raises:
        TimeoutError: some rank did not come; names those.
    """
    deadline = time.monotonic() + timeout_s
    own = uuid.uuid4().hex
    if rank == 0:
        missing = set(range(1, world))
        while missing:
            marks = [_read(store, f"steel/mark/{other}") for other in range(1, world)]
            store.set("steel/attempt", json.dumps({"name": own, "marks": marks}))
            _pause(deadline, f"ranks {', '.join(map(str, sorted(missing)))} did not join")
            missing = {other for other in missing if not store.check([f"steel/joined/{own}/{other}"])}
        return own
    store.set(f"steel/mark/{rank}", own)
    while True:
        answer = json.loads(_read(store, "steel/attempt") or "{}")
        if own in answer.get("marks", []):
            store.set(f"steel/joined/{answer['name']}/{rank}", "")
            return answer["name"]
        _pause(deadline, "rank 0 did not join")


def _read(store: Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None


def _pause(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{problem} the job in time")
    time.sleep(INTERVAL_S)
