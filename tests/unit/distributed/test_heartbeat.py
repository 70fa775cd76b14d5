"""Who has gone silent."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from steel.distributed.heartbeat import Heartbeat, Sign, Watch


def beat(number: int) -> Sign:
    return Sign("node", number)


def listen(watch: Watch, signs: dict[int, Sign], start: int, end: int) -> list[int]:
    """The ranks missed at `end`, the same signs having been heard each second since `start`."""
    return [watch.hear(signs, float(now), silence_s=10.0) for now in range(start, end + 1)][-1]


def test_a_rank_is_lost_only_when_its_sign_stands_still_for_too_long() -> None:
    watch = Watch([1, 2], now=0.0)
    assert listen(watch, {1: beat(1), 2: beat(1)}, 1, 5) == []
    assert listen(watch, {1: beat(2), 2: beat(1)}, 6, 11) == []
    assert listen(watch, {1: beat(3), 2: beat(1)}, 12, 12) == [2]
    assert listen(watch, {1: beat(4), 2: beat(2)}, 13, 14) == []


def test_a_rank_that_has_left_is_not_missed() -> None:
    watch = Watch([1], now=0.0)
    assert listen(watch, {1: Sign("node", left=True)}, 1, 60) == []


def test_nobody_is_blamed_after_a_suspension_of_the_whole_job() -> None:
    watch = Watch([1], now=0.0)
    assert listen(watch, {1: beat(1)}, 1, 5) == []
    assert listen(watch, {1: beat(1)}, 3600, 3610) == []
    assert listen(watch, {1: beat(1)}, 3611, 3611) == [1]


class DictStore(dict):
    gone = False

    def set(self, key: str, value: str) -> None:
        if self.gone:
            raise RuntimeError("Connection reset by peer")
        self[key] = value.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        if self.gone:
            raise RuntimeError("Connection reset by peer")
        return [self[key] for key in keys]


BEGUN: list[Heartbeat] = []


def begin(store: DictStore, rank: int, world: int, **options: Any) -> Heartbeat:
    """A heartbeat that ends with the test."""
    BEGUN.append(Heartbeat(store, rank, world, **options))
    return BEGUN[-1]


@pytest.fixture(autouse=True)
def no_heartbeat_is_left() -> Iterator[None]:
    yield
    while BEGUN:
        BEGUN.pop().leave()


def unheard(failure: str, code: int) -> None:
    raise AssertionError(failure)


@pytest.fixture
def store() -> DictStore:
    """As rank 1 of two left it, before it fell silent."""
    store = DictStore()
    begin(store, 1, 2, interval_s=1000, give_up=unheard)
    return store


class Told:
    """Takes what a heartbeat gives up for."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.words: list[tuple[str, int]] = []

    def __call__(self, failure: str, code: int) -> None:
        self.words.append((failure, code))
        self.done.set()


def test_a_silent_rank_is_named_with_its_process(store: DictStore) -> None:
    told = Told()
    begin(store, 0, 2, interval_s=0.01, silence_s=0.05, give_up=told)
    assert told.done.wait(5)
    ((failure, code),) = told.words
    assert f"rank 1 ({socket.gethostname()} pid {os.getpid()})" in failure and "silent" in failure and code == 1


def test_a_failure_is_heard_at_the_next_beat_and_passed_on_in_the_same_words(store: DictStore) -> None:
    told, further = Told(), Told()
    failing = begin(store, 1, 3, interval_s=1000, give_up=unheard)
    middle = begin(store, 0, 3, interval_s=0.02, silence_s=1000, give_up=told)
    last = begin(store, 2, 3, interval_s=0.02, silence_s=1000, give_up=further)
    time.sleep(0.1)
    assert not told.words and not further.words
    failing.leave("rank 1 (node pid 7) failed: no such file", code=2)
    assert told.done.wait(5) and further.done.wait(5)
    assert told.words == further.words == [("rank 1 (node pid 7) failed: no such file", 2)]
    for heartbeat, (failure, code) in ((middle, told.words[0]), (last, further.words[0])):
        heartbeat.leave(failure, code)
    late = Told()
    begin(store, 1, 3, interval_s=0.01, silence_s=1000, give_up=late)  # hears it from the others alone
    assert late.done.wait(5) and late.words == told.words


def test_no_beat_follows_the_last_word(store: DictStore) -> None:
    heartbeat = begin(store, 0, 2, interval_s=0.001, silence_s=1000, give_up=unheard)
    time.sleep(0.05)
    heartbeat.leave("full", code=2)
    heartbeat.leave()  # the first call counts
    time.sleep(0.05)
    assert json.loads(store["steel/heartbeat/0"])["failure"] == "full"


def test_who_has_failed_lingers_until_the_others_have_heard_but_not_for_long(store: DictStore) -> None:
    heartbeat = begin(store, 0, 2, interval_s=0.1, silence_s=1000, give_up=unheard)
    heartbeat.leave("full")
    begun = time.monotonic()
    heartbeat.linger()
    assert 0.4 < time.monotonic() - begun < 5  # five beats: rank 1 says nothing
    begin(store, 1, 2, interval_s=1000, give_up=unheard).leave()
    begun = time.monotonic()
    heartbeat.linger(seconds=60)
    assert time.monotonic() - begun < 5


def test_a_stop_signal_shortens_the_patience(store: DictStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steel.distributed.heartbeat.HURRIED_SILENCE_S", 0.05)
    told = Told()
    heartbeat = begin(store, 0, 2, interval_s=0.01, silence_s=1000, give_up=told)
    assert not told.done.wait(0.3)
    heartbeat.hurried = lambda: True
    assert told.done.wait(5)


def test_a_store_that_is_gone_ends_the_job(store: DictStore) -> None:
    told = Told()
    begin(store, 0, 2, interval_s=0.01, silence_s=0.2, give_up=told)
    store.gone = True
    assert told.done.wait(5)
    assert "store has not answered" in told.words[0][0]


def test_who_is_lost_after_a_broken_collective(store: DictStore) -> None:
    heartbeat = begin(store, 0, 2, interval_s=0.02, silence_s=1000, give_up=Told())
    gone = f"lost contact with the other ranks: rank 1 ({socket.gethostname()} pid {os.getpid()}) is gone"
    assert heartbeat.find_lost("gloo: closed") == gone
    alive = begin(store, 1, 2, interval_s=0.01, silence_s=1000, give_up=unheard)
    assert heartbeat.find_lost("gloo: closed").endswith("all are alive, but the network: gloo: closed")
    alive.leave("rank 1 (node pid 7) failed: out of memory")
    assert heartbeat.find_lost("gloo: closed") == "rank 1 (node pid 7) failed: out of memory"
    store.gone = True
    assert "store cannot be reached" in heartbeat.find_lost("gloo: closed")


def test_a_rank_that_has_left_is_not_called_lost(store: DictStore) -> None:
    heartbeat = begin(store, 0, 2, interval_s=0.02, silence_s=1000, give_up=Told())
    begin(store, 1, 2, interval_s=1000, give_up=unheard).leave()
    assert "is gone" not in heartbeat.find_lost("closed")
