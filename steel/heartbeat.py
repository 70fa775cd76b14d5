"""Notices a rank that hangs: each leaves signs of life in the job's store, and watches those of the others.

A rank that dies closes its connections, and the others fail at once: the signs then tell which one it was. One that is
stopped, or on a node that has dropped off the network, closes nothing: the others would wait in a collective until its
long time limit.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

INTERVAL_S = 1.0
SILENCE_S = float(os.environ.get("STEEL_RANK_SILENCE_S", "90"))
"""A rank that is silent for so long is given up. Its threads beat even while it computes or waits."""
HURRIED_SILENCE_S = 15.0
"""Likewise once the job has been told to stop: a launcher kills what has not ended after 30 s, without a reason."""


@dataclass(frozen=True)
class Sign:
    """What a rank last said of itself."""

    name: str
    """Its host and process."""
    beats: int = 0
    left: bool = False
    """It has done its part and will not be heard of again."""
    failure: str = ""
    """Why it has failed, if it could say so."""


class Store(Protocol):
    """The part of torch.distributed's key-value store that this needs."""

    def set(self, key: str, value: str) -> None: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...


class Watch:
    """When each rank was last heard of, by this process's clock; clocks of other nodes do not matter."""

    def __init__(self, ranks: list[int], now: float) -> None:
        self._last: dict[int, tuple[Sign | None, float]] = dict.fromkeys(ranks, (None, now))
        self._listened = now

    def hear(self, signs: dict[int, Sign], now: float, silence_s: float) -> list[int]:
        """Take in each rank's latest sign; the ranks whose sign has not changed for `silence_s` seconds.

        A rank that has left on purpose is not missed. Where this process itself was away for long, as in a suspended
        job, nobody is blamed: all have `silence_s` from now.
        """
        away = now - self._listened > silence_s / 2
        self._listened = now
        for rank, sign in signs.items():
            if away or sign != self._last[rank][0]:
                self._last[rank] = (sign, now)
        return [r for r, (sign, since) in self._last.items() if now - since > silence_s and not (sign and sign.left)]


class Heartbeat:
    """This rank's signs of life, and its watch over the others', on a daemon thread until `leave` or the process's end.

    One rank's silence ends every other rank with one line.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world: int,
        *,
        interval_s: float = INTERVAL_S,
        silence_s: float = SILENCE_S,
        end: Callable[[str], None] | None = None,
    ) -> None:
        """Begin to beat and watch.

        Args:
            store: this process's own connection; its requests must time out sooner than never.
            rank: of this process.
            world: number of ranks.
            interval_s: seconds between two signs.
            silence_s: how long a rank may be silent.
            end: what to do with the message; by default print it and end the process with code 1.
        """
        self._store = store
        self._rank = rank
        self._others = [r for r in range(world) if r != rank]
        self._interval_s, self._silence_s = interval_s, silence_s
        self._end = end or _end_process
        self._name = f"{socket.gethostname()} pid {os.getpid()}"
        self._left = threading.Event()
        self.on_lost: Callable[[str], None] = lambda message: None
        """Called with the message before the process ends."""
        self.hurried: Callable[[], bool] = lambda: False
        """Whether the job has been told to stop."""
        self._say(Sign(self._name))
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def leave(self, failure: str = "") -> None:
        """Stop beating: this rank has done its part, or has failed and says why. The first call counts."""
        if self._left.is_set():
            return
        self._left.set()
        with contextlib.suppress(RuntimeError):  # nobody is left to hear it
            self._say(Sign(self._name, left=not failure, failure=failure))

    def find_lost(self) -> str:
        """After a collective has failed: which rank is gone, and why if it could say so; looks for a few seconds."""
        deadline = time.monotonic() + 4 * self._interval_s
        first: dict[int, Sign] = {}
        while True:
            try:
                signs = self._listen()
            except RuntimeError:
                return "the job's store cannot be reached: rank 0 or its launcher is gone"
            for rank, sign in signs.items():
                if sign.failure:
                    return f"rank {rank} ({sign.name}) failed: {sign.failure}"
            first = first or signs
            silent = [rank for rank in first if signs[rank] == first[rank]]
            if time.monotonic() > deadline:
                return f"{self._names(silent, signs)} is gone" if silent else "all ranks are alive: look at the network"
            time.sleep(self._interval_s / 4)

    def _run(self) -> None:
        watch = Watch(self._others, time.monotonic())
        beats, reached = 0, time.monotonic()
        while not self._left.wait(self._interval_s):
            beats += 1
            silence_s = min(self._silence_s, HURRIED_SILENCE_S) if self.hurried() else self._silence_s
            try:
                self._say(Sign(self._name, beats))
                signs = self._listen()
                reached = time.monotonic()
            except RuntimeError:  # usually because the job is ending
                if time.monotonic() - reached > silence_s:
                    self._give_up(f"the job's store has not answered for {silence_s:.0f} s: its node is gone")
                continue
            silent = watch.hear(signs, reached, silence_s)
            if silent:
                names = self._names(silent, signs)
                self._give_up(f"{names} has been silent for {silence_s:.0f} s: it hangs or its node is gone")

    def _give_up(self, message: str) -> None:
        if self._left.is_set():
            return
        self._left.set()
        try:
            self.on_lost(message)
        finally:
            self._end(f"error: {message}; ending the job")

    def _say(self, sign: Sign) -> None:
        self._store.set(_key(self._rank), json.dumps(asdict(sign)))

    def _listen(self) -> dict[int, Sign]:
        values = self._store.multi_get([_key(rank) for rank in self._others])
        return {rank: Sign(**json.loads(value)) for rank, value in zip(self._others, values, strict=True)}

    @staticmethod
    def _names(ranks: list[int], signs: dict[int, Sign]) -> str:
        return ", ".join(f"rank {rank} ({signs[rank].name})" for rank in ranks)


def _key(rank: int) -> str:
    return f"steel/heartbeat/{rank}"


def _end_process(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    os._exit(1)
