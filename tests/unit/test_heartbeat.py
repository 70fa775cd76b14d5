"""Who has gone silent."""

import threading

from steel.heartbeat import Watch, start_heartbeat


def test_a_rank_is_lost_only_when_its_sign_stands_still_for_too_long() -> None:
    watch = Watch([1, 2], now=0.0, silence_s=10)
    assert watch.hear({1: "1", 2: "1"}, now=5.0) == []
    assert watch.hear({1: "2", 2: "1"}, now=14.0) == []
    assert watch.hear({1: "3", 2: "1"}, now=16.0) == [2]
    assert watch.hear({1: "4", 2: "2"}, now=17.0) == []


class DictStore(dict):
    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.get(key, b"") for key in keys]


def test_a_silent_rank_is_named_with_its_host() -> None:
    store, done = DictStore(), threading.Event()
    told: list[str] = []
    store.set("steel/heartbeat/1", "7 node9 pid 42")

    def give_up(message: str) -> None:
        told.append(message)
        done.set()

    start_heartbeat(store, 0, 2, give_up=give_up, interval_s=0.01, silence_s=0.05)
    assert done.wait(5)
    assert "rank 1 (node9 pid 42)" in told[0]
    assert store["steel/heartbeat/0"]
