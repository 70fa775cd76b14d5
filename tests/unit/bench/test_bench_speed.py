"""The parts of the speed benchmark that its figures hang on."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from tqdm import tqdm

from bench.speed import ours, probabilities
from bench.speed.dataset import Dataset
from bench.speed.report import write_report
from bench.speed.row import Row, Side
from bench.speed.rows import _statistics, table
from bench.speed.run import RowResult, SideResult, Workers, measure_row, num_measurements, repeats_of
from bench.speed.timing import Measure, in_child, time_passes, time_stretch
from tests.paths import ROOT


class FakeWorkers(Workers):
    """Rates by task, one a round; None fails."""

    def __init__(self, rates: dict[str, list[float | None]]) -> None:
        self.rates, self.asked = rates, list[str]()

    def measure(self, side: Side) -> float:
        self.asked.append(side.task)
        rate = self.rates[side.task].pop(0)
        if rate is None:
            raise RuntimeError("no such store")
        return rate


def measure(rates: dict[str, list[float | None]], *, at_most: bool = False, target: float = 2.0) -> RowResult:
    sides = tuple(Side(task, "ours", task, target=target if n else None) for n, task in enumerate(rates))
    row = Row("row", "title", "samples/s", sides, at_most)
    return measure_row(row, 3, FakeWorkers(rates), tqdm(disable=True))


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    workers = FakeWorkers({"a": [1.0, 40.0, 60.0, 80.0], "b": [999.0, 10.0, 20.0, 40.0]})
    row = Row("row", "title", "samples/s", (Side("a", "ours", "a"), Side("b", "peers", "b", target=3.0)))
    result = measure_row(row, 3, workers, tqdm(disable=True))
    assert workers.asked == ["a", "b", "b", "a"] * 2  # neither always follows the other
    ours, peer = result.sides
    assert (ours.rate, peer.rate) == (60.0, 20.0)
    assert peer.ratios == (4.0, 3.0, 2.0) and peer.ratio == 3.0
    assert result.reached(peer) is True and result.reached(ours) is None


def test_a_row_that_varies_much_is_measured_more_often() -> None:
    rates: dict[str, list[float | None]] = {"a": [1.0, *[2.0] * 6], "b": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0]}
    workers = FakeWorkers(rates)
    row = Row("row", "title", "samples/s", (Side("a", "ours", "a"), Side("b", "peers", "b", target=1.0)), times=3)
    result = measure_row(row, 2, workers, tqdm(disable=True))
    assert result.sides[1].ratio == 1.0 and len(result.sides[1].ratios) == 6
    assert len(workers.asked) == num_measurements([row], 2) == 14
    assert repeats_of([row, replace(row, title="other", times=1)], 2) == "2; 6 of title"


def test_cost_is_our_time_over_theirs() -> None:
    result = measure({"sample": [1.0, 80.0, 80.0, 80.0], "jpeg": [1.0, 100.0, 100.0, 100.0]}, at_most=True, target=1.2)
    assert result.sides[1].ratio == 1.25
    assert result.reached(result.sides[1]) is False


def test_a_side_that_fails_is_reported_with_its_reason(tmp_path: Path) -> None:
    result = measure({"a": [1.0, 2.0, 2.0, 2.0], "b": [None], "c": [1.0, 1.0, 1.0, 1.0]})
    assert result.reached(result.sides[1]) is None
    assert result.reached(result.sides[2]) is True
    write_report(tmp_path / "speed.md", [result], {"repeats": 3}, ["note"], "Speed")
    text = (tmp_path / "speed.md").read_text()
    assert "could not run: no such store" in text
    assert "| a | 2 samples/s (2 to 2) |" in text
    assert "2.00x (2.00 to 2.00) | at least 2x: reached" in text
    assert json.loads((tmp_path / "speed.json").read_text())["rows"][0]["sides"][2]["rates"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("rate", "said"), [(800.0, "1.25 ms, at most 1.4: reached"), (500.0, "2.00 ms, at most 1.4: **missed**")]
)
def test_a_limit_of_milliseconds_is_a_target_of_our_side_too(tmp_path: Path, rate: float, said: str) -> None:
    row = Row("row", "title", "images/s", (Side("a", "ours", "a", most_ms=1.4), Side("b", "peers", "b")))
    result = measure_row(row, 1, FakeWorkers({"a": [1.0, rate], "b": [None]}), tqdm(disable=True))
    assert result.reached(result.sides[0]) is (rate == 800)
    assert result.reached(result.sides[1]) is None
    write_report(tmp_path / "speed.md", [result], {"repeats": 1}, ["note"], "Speed")
    assert said in (tmp_path / "speed.md").read_text()


@pytest.mark.parametrize(("rate", "verdict"), [(2400.0, "reached"), (2399.0, "**missed**")])
def test_a_speed_is_a_target_of_our_side_too(tmp_path: Path, rate: float, verdict: str) -> None:
    row = Row("row", "title", "images/s", (Side("a", "ours", "a", least_rate=2400),))
    result = measure_row(row, 1, FakeWorkers({"a": [1.0, rate]}), tqdm(disable=True))
    assert result.reached(result.sides[0]) is (rate == 2400)
    write_report(tmp_path / "speed.md", [result], {"repeats": 1}, ["note"], "Speed")
    assert f"at least 2,400 images/s: {verdict}" in (tmp_path / "speed.md").read_text()


def test_the_limit_of_a_gpu_is_not_held_against_a_cpu() -> None:
    for has_gpu in (True, False):
        limits = {side.task: side.most_ms for row in _statistics(has_gpu=has_gpu) for side in row.sides}
        assert (limits["statistics"], limits["statistics_device"]) == (1.4, 0.4 if has_gpu else None)


def test_every_row_can_be_reported(tmp_path: Path) -> None:
    """As the whole run does at its end; here each side does one item a second."""
    rows = table(Dataset(tmp_path), endpoint="", bucket="b", rle_csv="masks.csv", num_samples=8, has_gpu=False)
    results = []
    for row in rows:
        rates: dict[str, list[float | None]] = {side.task: [1.0] * 2 * len(row.sides) for side in row.sides}
        results.append(measure_row(row, 1, FakeWorkers(rates), tqdm(disable=True)))
    write_report(tmp_path / "speed.md", results, {"repeats": 1}, ["note"], "Speed")
    text = (tmp_path / "speed.md").read_text()
    assert all(row.title in text and all(side.remark in text for side in row.sides) for row in rows)


def test_passes_leave_out_what_comes_before_the_first_item() -> None:
    def slow_start():
        time.sleep(1)
        yield 0
        for k in range(5):
            time.sleep(0.01)
            yield k

    measured = time_passes(slow_start, seconds=0.04)
    assert measured.items % 5 == 0
    assert measured.seconds / measured.items < 0.15  # with the start, more than 0.2


def test_a_loader_that_ends_early_is_no_measurement() -> None:
    with pytest.raises(AssertionError, match="ended early"):
        time_stretch(iter(range(10)), batch_size=4, skip=8, count=3)


def test_a_child_hands_over_its_measure_or_its_error() -> None:
    assert in_child(lambda: Measure(3, 0.5)) == (3, 0.5)
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        in_child(lambda: int("no") and Measure(0, 0))


def test_the_store_serves_ranges_late(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "file").write_bytes(b"0123456789")
    command = [sys.executable, "-m", "bench.speed.store", str(tmp_path), "0.05"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as store:
        try:
            assert store.stdout is not None
            url = f"http://127.0.0.1:{store.stdout.readline().strip()}/bucket"
            start = time.perf_counter()
            with urllib.request.urlopen(f"{url}/file") as answer:
                assert answer.read() == b"0123456789"
            assert time.perf_counter() - start >= 0.05
            request = urllib.request.Request(f"{url}/file", headers={"Range": "bytes=2-4"})
            with urllib.request.urlopen(request) as answer:
                assert (answer.status, answer.read()) == (206, b"234")
                assert answer.headers["Content-Range"] == "bytes 2-4/10"
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{url}/none")
        finally:
            store.kill()


def test_the_side_of_ours_is_no_peer() -> None:
    ours = SideResult(Side("a", "ours", "a", target=2.0), (1.0,), ())
    assert RowResult(Row("row", "title", "u", (ours.side,)), (ours,)).reached(ours) is None


def test_every_way_to_count_runs_and_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a GPU on whatever there is."""
    for name, small in (("NUM_IMAGES", 7), ("HEIGHT", 96), ("WIDTH", 200)):
        monkeypatch.setattr(probabilities, name, small)
    probabilities._images.cache_clear()
    try:
        for side in _statistics(has_gpu=False)[0].sides:
            items, seconds = getattr(ours, side.task)(**{**side.options, "seconds": 1e-9})
            # Passes that are timed from their first image count the others.
            assert items == (7 if side.task == "statistics_device" else 6)
            assert seconds > 0
    finally:
        probabilities._images.cache_clear()
