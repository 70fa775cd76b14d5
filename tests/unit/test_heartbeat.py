"""Who has gone silent."""

import os
import socket
import threading

import pytest

from steel.heartbeat import Heartbeat, Sign, Watch


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


@pytest.fixture
def store() -> DictStore:
    """As rank 1 of two left it, before it fell silent."""
    store = DictStore()
    Heartbeat(store, 1, 2, interval_s=1000)
    return store


def test_a_silent_rank_is_named_with_its_process(store: DictStore) -> None:
    done, told = threading.Event(), []
    heartbeat = Heartbeat(store, 0, 2, interval_s=0.01, silence_s=0.05, end=lambda message: done.set())
    heartbeat.on_lost = told.append
    assert done.wait(5)
    assert f"rank 1 ({socket.gethostname()} pid {os.getpid()})" in told[0] and "silent" in told[0]


def test_a_stop_signal_shortens_the_patience(store: DictStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steel.heartbeat.HURRIED_SILENCE_S", 0.05)
    done = threading.Event()
    heartbeat = Heartbeat(store, 0, 2, interval_s=0.01, silence_s=1000, end=lambda message: done.set())
    assert not done.wait(0.3)
    heartbeat.hurried = lambda: True
    assert done.wait(5)


def test_a_store_that_is_gone_ends_the_job(store: DictStore) -> None:
    done, told = threading.Event(), []
    heartbeat = Heartbeat(store, 0, 2, interval_s=0.01, silence_s=0.2, end=lambda message: done.set())
    heartbeat.on_lost = told.append
    store.gone = True
    assert done.wait(5)
    assert "store has not answered" in told[0]


def test_who_is_lost_after_a_broken_collective(store: DictStore) -> None:
    heartbeat = Heartbeat(store, 0, 2, interval_s=0.02, silence_s=1000, end=lambda message: None)
    assert heartbeat.find_lost() == f"rank 1 ({socket.gethostname()} pid {os.getpid()}) is gone"
    alive = Heartbeat(store, 1, 2, interval_s=0.01, silence_s=1000)
    assert "all ranks are alive" in heartbeat.find_lost()
    alive.leave("out of memory")
    assert heartbeat.find_lost().endswith("failed: out of memory")
    store.gone = True
    assert "store cannot be reached" in heartbeat.find_lost()
