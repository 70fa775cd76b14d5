"""Notices a rank that has failed or hangs: each leaves signs of life in the job's store, and watches the others'.

A rank that fails says why in its sign, and the others end with the same words at their next beat. One that dies without
a word closes its connections, and the others fail at once: the signs then tell which one it was. One that is stopped,
or on a node that has dropped off the network, closes nothing: the others would wait in a collective until its long time
limit.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

INTERVAL_S = 1.0
SILENCE_S = float(os.environ.get("STEEL_RANK_SILENCE_S", "90"))
"""A rank that is silent for so long is given up. Its threads beat even while it computes or waits."""
HURRIED_SILENCE_S = 15.0
"""Likewise once the job has been told to stop: a launcher kills what has not ended in time, and gives no reason."""


@dataclass(frozen=True)
class Sign:
    """What a rank last said of itself."""

    name: str
    """Its host and process."""
    beats: int = 0
    left: bool = False
    """It has done its part and will not be heard of again."""
    failure: str = ""
    """Why the job has failed, if this rank knows: in the same words whoever passes them on."""
    code: int = 1
    """The exit code that goes with the failure."""

    @property
    def is_last(self) -> bool:
        """Whether nothing will follow: the rank is done, or has failed."""
        return self.left or bool(self.failure)


class Store(Protocol):
    """The part of torch.distributed's key-value store that this needs."""

    def set(self, key: str, value: str) -> None:
        """Write a value, as text, under a key."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values under several keys; waits until all are there."""


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
    """This rank's signs of life, and its watch over the others', on a thread until `leave` or the process's end."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world: int,
        *,
        give_up: Callable[[str, int], None],
        interval_s: float = INTERVAL_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """Begin to beat and watch.

        Args:
            store: this process's own connection; its requests must time out sooner than never.
            rank: of this process.
            world: number of ranks.
            give_up: called on the thread, once, with why the job has failed and the exit code that goes with it:
                another rank says so, or is silent.
            interval_s: seconds between two signs.
            silence_s: how long a rank may be silent.
        """
        self._store = store
        self.rank, self.world = rank, world
        self.name = f"{socket.gethostname()} pid {os.getpid()}"
        self._others = [r for r in range(world) if r != rank]
        self._give_up = give_up
        self._interval_s, self._silence_s = interval_s, silence_s
        self._left = threading.Event()
        self._saying = threading.Lock()
        """Held so that no beat follows the last word."""
        self.hurried: Callable[[], bool] = lambda: False
        """Whether the job has been told to stop."""
        self._say(Sign(self.name))
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def leave(self, failure: str = "", code: int = 1) -> None:
        """Stop beating: this rank has done its part, or knows why the job has failed. The first call counts."""
        with self._saying, contextlib.suppress(RuntimeError):  # nobody is left to hear it
            if not self._left.is_set():
                self._left.set()
                self._say(Sign(self.name, left=not failure, failure=failure, code=code))

    def linger(self, ranks: list[int] | None = None, seconds: float | None = None) -> None:
        """Wait until all other ranks (or `ranks`) have left or failed too, `seconds` (or five beats) at most.

        They hear this rank's last word at their next beat, unless they are gone; but a launcher ends them with the
        first rank that ends, and the store may end with this process.
        """
        deadline = time.monotonic() + (5 * self._interval_s if seconds is None else seconds)
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it whoever could hear
            while time.monotonic() < deadline:
                signs = self._listen()
                if all(signs[rank].is_last for rank in (self._others if ranks is None else ranks)):
                    return
                time.sleep(self._interval_s / 10)

    def find_lost(self, said: str) -> str:
        """After a collective has failed, in its words: which rank is gone, and why if it could say so; looks for a few
        seconds."""
        deadline = time.monotonic() + 4 * self._interval_s
        first: dict[int, Sign] = {}
        while True:
            try:
                signs = self._listen()
            except RuntimeError:
                return "lost contact: the job's store cannot be reached; rank 0 or its launcher is gone"
            for sign in signs.values():
                if sign.failure:
                    return sign.failure
            first = first or signs
            silent = [rank for rank in first if signs[rank] == first[rank] and not signs[rank].left]
            if time.monotonic() > deadline:
                found = f"{self._names(silent, signs)} is gone" if silent else f"all are alive, but the network: {said}"
                return f"lost contact with the other ranks: {found}"
            time.sleep(self._interval_s / 4)

    def _run(self) -> None:
        watch = Watch(self._others, time.monotonic())
        beats, reached = 0, time.monotonic()
        while not self._left.wait(self._interval_s):
            beats += 1
            silence_s = min(self._silence_s, HURRIED_SILENCE_S) if self.hurried() else self._silence_s
            try:
                self._beat(beats)
                signs = self._listen()
                reached = time.monotonic()
            except RuntimeError:  # usually because the job is ending
                if time.monotonic() - reached > silence_s:
                    return self._end(f"the job's store has not answered for {silence_s:.0f} s: its node is gone")
                continue
            for sign in signs.values():
                if sign.failure:
                    return self._end(sign.failure, sign.code)
            silent = watch.hear(signs, reached, silence_s)
            if silent:
                names = self._names(silent, signs)
                return self._end(f"{names} has been silent for {silence_s:.0f} s: it hangs or its node is gone")

    def _end(self, failure: str, code: int = 1) -> None:
        if not self._left.is_set():
            self._give_up(failure, code)

    def _beat(self, number: int) -> None:
        with self._saying:
            if not self._left.is_set():
                self._say(Sign(self.name, number))

    def _say(self, sign: Sign) -> None:
        self._store.set(_key(self.rank), json.dumps(asdict(sign)))

    def _listen(self) -> dict[int, Sign]:
        values = self._store.multi_get([_key(rank) for rank in self._others])
        return {rank: Sign(**json.loads(value)) for rank, value in zip(self._others, values, strict=True)}

    @staticmethod
    def _names(ranks: list[int], signs: dict[int, Sign]) -> str:
        return ", ".join(f"rank {rank} ({signs[rank].name})" for rank in ranks)


def _key(rank: int) -> str:
    return f"steel/heartbeat/{rank}"
