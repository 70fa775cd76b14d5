"""Whether a run holds decoded samples: arithmetic by hand, and what each setting does."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steel.config import RuntimeConfig
from steel.shards.reader import ShardReader
from tests.shard_folder import small_shards
from train.engine import decoded_samples
from train.engine.decoded_samples import Need, gain_seconds, keep_decoded_samples
from train.engine.disk_speed import DiskSpeed, measure_disk

GB = 10**9


class OneRank:
    world = 1
    is_main = True
    cores = 2.0

    def on_main(self, task: Callable[[], bool]) -> bool:
        return task()


# 1,000 samples read 10 times, 2 ms each to decode; 4 GB when decoded.
NEED = Need(samples=1000, reads=10_000, decode_seconds=0.002)


def test_what_is_held_in_memory_costs_its_writing_alone() -> None:
    # 9,000 reads of 2 ms are spared; 4 GB are written at 1 GB/s.
    assert gain_seconds(NEED, 4 * GB, 4 * GB, 8 * GB, DiskSpeed(write=GB, read=GB)) == pytest.approx(18 - 4)


def test_what_is_there_already_is_not_written_again() -> None:
    assert gain_seconds(NEED, 4 * GB, GB, 8 * GB, DiskSpeed(write=GB, read=GB)) == pytest.approx(18 - 1)


def test_what_memory_cannot_hold_is_read_each_time() -> None:
    # A quarter does not fit: 9 times 1 GB at 0.5 GB/s.
    assert gain_seconds(NEED, 4 * GB, 0, 3 * GB, DiskSpeed(write=GB, read=GB / 2)) == pytest.approx(18 - 18)


def test_a_single_pass_spares_nothing() -> None:
    once = Need(samples=1000, reads=1000, decode_seconds=0.002)
    assert gain_seconds(once, 4 * GB, 4 * GB, 8 * GB, DiskSpeed(write=GB, read=GB)) == pytest.approx(-4)


def keep(tmp_path: Path, passes: float, **settings: object) -> ShardReader:
    reader = ShardReader(small_shards(tmp_path / "shards"))
    config = RuntimeConfig(cache_dir=str(tmp_path / "node"), **settings)  # type: ignore[arg-type]
    keep_decoded_samples(reader, np.arange(14), passes, config, OneRank())  # type: ignore[arg-type]
    return reader


def test_off_and_on(tmp_path: Path) -> None:
    assert keep(tmp_path / "off", 1e9, decoded_cache="off").decoded is None
    assert keep(tmp_path / "on", 1, decoded_cache="on").decoded is not None


def test_auto_goes_without_where_little_is_to_be_gained(tmp_path: Path) -> None:
    assert keep(tmp_path, 30).decoded is None
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize(("speed", "is_held"), [(GB, True), (1e-3, False)])
def test_auto_asks_the_disk(
    tmp_path: Path, speed: float, is_held: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoded_samples, "measure_disk", lambda *_: DiskSpeed(speed, speed))
    with caplog.at_level(logging.INFO):
        reader = keep(tmp_path, 1e7, decoded_bytes=10**6)
    assert (reader.decoded is not None) == is_held
    assert len(caplog.records) == 1
    assert ("too slow" in caplog.text) != is_held


@pytest.mark.parametrize(("speed", "is_held"), [(GB, True), (1e-3, False)])
def test_auto_removes_other_sets_only_when_it_holds_this_one(
    tmp_path: Path, speed: float, is_held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_samples, "measure_disk", lambda *_: DiskSpeed(speed, speed))
    other = tmp_path / "node" / "decoded" / "another set"
    other.mkdir(parents=True)
    (other / ".in-use").touch()
    (other / "shard.decoded").write_bytes(bytes(range(256)) * 400)
    assert (keep(tmp_path, 1e7, decoded_bytes=10**5).decoded is not None) == is_held
    assert other.exists() != is_held


def test_auto_says_when_there_is_no_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert keep(tmp_path, 1e7, decoded_bytes=1).decoded is None
    assert "no room" in caplog.text


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "node").write_text("in the way")
    assert keep(tmp_path, 1, decoded_cache="on").decoded is None
    assert len(caplog.records) == 1


def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    speed = measure_disk(tmp_path, 2 * 2**20)
    assert min(speed) > 0
    assert list(tmp_path.iterdir()) == []
