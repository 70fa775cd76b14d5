"""Notices a rank that hangs: each leaves signs of life in the job's store, and watches those of the others.

A rank that dies closes its connections, and the others fail at once. One that is stopped, or on a node that has dropped
off the network, does not: the others would wait in a collective until its long time limit.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

INTERVAL_S = 2.0
SILENCE_S = float(os.environ.get("STEEL_RANK_SILENCE_S", "90"))
"""A rank that is silent for so long is given up. Its threads beat even while it computes or waits."""


class Store(Protocol):
    """The part of torch.distributed's key-value store that this needs."""

    def set(self, key: str, value: str) -> None: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...


class Watch:
    """When each rank was last heard of, by this process's clock; clocks of other nodes do not matter."""

    def __init__(self, ranks: list[int], now: float, silence_s: float) -> None:
        self._silence_s = silence_s
        self._last = dict.fromkeys(ranks, ("", now))

    def hear(self, signs: dict[int, str], now: float) -> list[int]:
        """Take in each rank's latest sign; the ranks whose sign has not changed for too long."""
        for rank, sign in signs.items():
            if sign != self._last[rank][0]:
                self._last[rank] = (sign, now)
        return [rank for rank, (_, since) in self._last.items() if now - since > self._silence_s]


def start_heartbeat(
    store: Store,
    rank: int,
    world: int,
    *,
    give_up: Callable[[str], None] | None = None,
    interval_s: float = INTERVAL_S,
    silence_s: float = SILENCE_S,
) -> None:
    """Beat and watch on daemon threads until the process ends; one rank's silence ends every other rank with one line.

    Args:
        store: this process's own connection.
        rank: of this process.
        world: number of ranks.
        give_up: what to do with the message; by default print it and end the process with code 1.
        interval_s: seconds between two signs.
        silence_s: how long a rank may be silent.
    """
    end = give_up or _end_process
    name = f"{socket.gethostname()} pid {os.getpid()}"
    others = [r for r in range(world) if r != rank]

    def run() -> None:
        beats = 0
        store.set(_key(rank), f"{beats} {name}")
        watch = Watch(others, time.monotonic(), silence_s)
        known: dict[int, str] = {}
        while True:
            beats += 1
            try:
                store.set(_key(rank), f"{beats} {name}")
                signs = dict(zip(others, (v.decode() for v in store.multi_get([_key(r) for r in others])), strict=True))
            except RuntimeError:
                return  # the store is gone: the job is ending, and its launcher tells why
            known |= {r: sign.partition(" ")[2] for r, sign in signs.items()}
            silent = watch.hear(signs, time.monotonic())
            if silent:
                lost = ", ".join(f"rank {r} ({known.get(r, 'unknown')})" for r in silent)
                end(
                    f"error: {lost} has been silent for {silence_s:.0f} s: it hangs or its node is gone; ending the job"
                )
                return
            time.sleep(interval_s)

    threading.Thread(target=run, name="heartbeat", daemon=True).start()


def _key(rank: int) -> str:
    return f"steel/heartbeat/{rank}"


def _end_process(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(1)
