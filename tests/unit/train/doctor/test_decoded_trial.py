"""The trial of the decoded cache: what it draws from, what it leaves, and what is said of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from steel.config import Config
from steel.shards import reader as readers
from steel.shards.reader import ShardReader
from tests.shard_folder import small_shards
from train.doctor import benchmarks, decoded_cache
from train.doctor.checks import GIB
from train.doctor.decoded_cache import CachedRates, cached_rates, judge_cached
from train.presets import SMOKE

T = TypeVar("T")
FAST = CachedRates(held=812.0, decoded=262.0, room=14, samples=14, num_bytes=GIB, memory=2 * GIB)


class Rank:
    """One of several whose others find what it finds."""

    device = type("Device", (), {"type": "cpu"})

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    def broadcast(self, value: T) -> T:
        return value

    def all_gather(self, value: T) -> Sequence[T]:
        return [value] * self.world

    def barrier(self) -> None:
        pass


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    return ShardReader(small_shards(tmp_path / "shards"))


def config_for(reader: ShardReader, **changes: Any) -> Config:
    runtime = replace(SMOKE.runtime, cache_dir=str(Path(reader.root).parent / "node"), **changes)
    return replace(SMOKE, runtime=runtime)


def tried(reader: ShardReader, workers: int = 0, **changes: Any) -> CachedRates | str:
    config = config_for(reader, **changes)
    return cached_rates(Rank(), reader, config, config.phases[0], (32, 64), workers)  # type: ignore[arg-type]


def left(reader: ShardReader) -> list[Path]:
    return list((Path(reader.root).parent / "node").rglob("*doctor*"))


@pytest.fixture
def drawn(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int] | None]]:
    """Of each rate that is measured: the rows that are drawn from, and those of them that are held, None without a
    cache. Their rates are 30 and 10."""
    calls: list[tuple[list[int], list[int] | None]] = []

    def rate(reader: ShardReader, *arguments: Any) -> float:
        rows, cache = arguments[-1].tolist(), reader.decoded
        places = [(row, reader.samples.place(row)) for row in rows]
        calls.append((rows, cache and [row for row, at in places if cache.read(row, at) is not None]))
        return 30.0 if cache else 10.0

    monkeypatch.setattr(decoded_cache, "loader_rate", rate)
    return calls


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_drawn_with_a_cache_and_without(
    reader: ShardReader, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "PROBE_SECONDS", 0.05)
    rates = tried(reader, workers)
    assert isinstance(rates, CachedRates)
    assert rates.held > 0 and rates.decoded > 0
    assert (rates.room, rates.samples) == (14, 14) and rates.num_bytes > 14 * 32 * 64
    assert reader.decoded is None and left(reader) == []


def test_both_rates_are_of_the_same_rows_and_all_are_held(reader: ShardReader, drawn: list) -> None:
    rates = tried(reader)
    every = list(range(14))
    assert drawn == [(every, every), (every, None)]
    assert isinstance(rates, CachedRates) and rates.gain == 3.0


def test_rows_are_those_that_the_phase_draws(reader: ShardReader, drawn: list) -> None:
    config = config_for(reader)
    phase = replace(config.phases[0], sampling=replace(config.phases[0].sampling, defective_only=True))
    cached_rates(Rank(), reader, config, phase, (32, 64), 0)  # type: ignore[arg-type]
    defective = np.flatnonzero(reader.samples.areas.sum(axis=1)).tolist()
    assert 0 < len(defective) < 14
    assert drawn == [(defective, defective), (defective, None)]


@pytest.mark.parametrize(("name", "bound", "number"), [("SAMPLES", 5, 5), ("SECONDS", 0.0, 1), ("BYTES", 6000, 3)])
def test_of_a_large_set_few_are_decoded(
    name: str, bound: float, number: int, reader: ShardReader, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_cache, f"MOST_{name}", bound)
    tried(reader)
    (rows, held), (same, _) = drawn
    assert rows == held == same == sorted(rows)
    assert len(rows) == number


def test_little_room_on_the_disk_bounds_what_is_held(
    reader: ShardReader, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it at most, by all ranks of the node."""
    monkeypatch.setattr(decoded_cache.storage, "free_bytes", lambda _: 4 * 2 * 5000)
    monkeypatch.setattr(decoded_cache, "local_ranks", lambda: 4)
    tried(reader, decoded_bytes=10**6)
    assert len(drawn[0][0]) == 3  # of 2,048 bytes each


def test_what_a_run_has_no_room_for_is_decoded_each_time(reader: ShardReader, drawn: list) -> None:
    # A page for the records; one for each of 4 images and for each of 2 that are marked.
    rates = tried(reader, decoded_bytes=(1 + 4 + 2) * 4096)
    assert drawn[0] == (list(range(14)), [0, 1, 2, 3])
    assert isinstance(rates, CachedRates) and (rates.room, rates.samples) == (4, 14)


def test_ranks_of_a_node_spare_each_other_the_decoding(
    reader: ShardReader, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each begins elsewhere, and what one has decoded the other finds."""
    chosen = []
    monkeypatch.setattr(decoded_cache, "MOST_SECONDS", 0.0)
    for rank in range(2):
        reader.keep_decoded(Path(reader.root).parent / "node", trial="trial")
        chosen += decoded_cache._hold_some(reader, np.arange(14), Rank(rank, 2)).tolist()  # type: ignore[arg-type]
    assert len(set(chosen)) == 2
    monkeypatch.setattr(decoded_cache, "MOST_SECONDS", 60.0)
    decoded_cache._hold_some(reader, np.arange(14), Rank(0, 2))  # type: ignore[arg-type]
    other = ShardReader(reader.root)
    other.keep_decoded(Path(reader.root).parent / "node", trial="trial")
    monkeypatch.setattr(readers, "decode_image", lambda *_: pytest.fail("decoded"))
    assert len(decoded_cache._hold_some(other, np.arange(14), Rank(1, 2))) == 14  # type: ignore[arg-type]


def test_where_nothing_can_be_held_it_is_said_why(reader: ShardReader, tmp_path: Path, drawn: list) -> None:
    assert tried(reader, decoded_cache="off") == "runtime.decoded-cache is off"
    assert not (tmp_path / "node").exists()
    assert tried(reader, decoded_bytes=1) == f"no room in {tmp_path / 'node' / 'decoded'}"
    assert left(reader) == []
    (tmp_path / "node" / "decoded").rmdir()
    (tmp_path / "node" / "decoded").write_text("in the way")
    assert str(tried(reader)).startswith("decoded samples cannot be held: ")
    assert drawn == [] and reader.decoded is None


def test_a_disk_that_fills_up_is_told(
    reader: ShardReader, tmp_path: Path, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("steel.shards.decoded_cache.os.pwrite", refuse)
    assert tried(reader) == f"no sample can be held in {tmp_path / 'node' / 'decoded'}"
    assert drawn == [] and left(reader) == []


@pytest.mark.parametrize("after", [0, 1])
def test_what_another_rank_cannot_is_everybodys_answer(after: int, reader: ShardReader, drawn: list) -> None:
    """Open a cache, or then hold something in it."""
    told: Iterator[str | None] = iter([*[None] * after, "no room in /there"])

    class Other(Rank):
        def all_gather(self, value: Any) -> list[Any]:
            return [value, next(told, None)]

    config = config_for(reader)
    said = cached_rates(Other(), reader, config, config.phases[0], (32, 64), 0)  # type: ignore[arg-type]
    assert said == "no room in /there"
    assert drawn == [] and left(reader) == []


def test_nothing_is_left_by_an_error(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> float:
        assert len(left(reader)) == 1
        raise RuntimeError("stopped")

    monkeypatch.setattr(decoded_cache, "loader_rate", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        tried(reader)
    assert reader.decoded is None and left(reader) == []


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        (FAST, "with the decoded cache 812 crops/s with 2 workers, 3.1x those that decode; it takes 1.0 GiB"),
        (
            replace(FAST, room=7, num_bytes=48 << 20),
            "with the decoded cache 812 crops/s with 2 workers, 3.1x those that decode; it takes 48 MiB, there being "
            "room for 7 of 14 samples",
        ),
        (
            replace(FAST, memory=GIB - 1),
            "with the decoded cache 812 crops/s with 2 workers, 3.1x those that decode; it takes 1.0 GiB, more than "
            "memory may hold: a run reads the rest from the disk each time, which was not measured",
        ),
        ("no room in /there", "the decoded cache was not tried: no room in /there"),
    ],
)
def test_what_was_measured_is_said(rates: CachedRates | str, text: str) -> None:
    finding = judge_cached("crops", rates, 2)
    assert (finding.subject, finding.text, finding.level) == ("loader", f"phase crops: {text}", "fine")


@pytest.mark.parametrize(("held", "is_faster"), [(111.0, True), (109.0, False), (50.0, False)])
def test_a_tenth_may_be_chance(held: float, is_faster: bool) -> None:
    assert replace(FAST, held=held, decoded=100.0).is_faster == is_faster
