"""Take the measurements: ours and the peers' in turn, repeat by repeat, so that whatever else runs hits all alike."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from bench.speed.row import Row, Side
from bench.speed.worker import Worker


@dataclass(frozen=True)
class SideResult:
    """What one side of a row did."""

    side: Side
    rates: tuple[float, ...]
    """Items per second of each repeat; empty when it failed."""
    ratios: tuple[float, ...]
    """Ours over theirs (or, `at_most`, theirs over ours: our share of time) of each repeat; empty for ours."""
    error: str = ""

    @property
    def rate(self) -> float:
        """Median of the repeats, items per second."""
        return statistics.median(self.rates)

    @property
    def milliseconds(self) -> float:
        """Median of the repeats, an item."""
        return 1000 / self.rate

    @property
    def ratio(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class RowResult:
    """A row with all its repeats."""

    row: Row
    sides: tuple[SideResult, ...]

    def reached(self, side: SideResult) -> bool | None:
        """Whether a side's target is reached; None when it has none or could not run."""
        if side.side.most_ms is not None and side.rates:
            return side.milliseconds <= side.side.most_ms
        if side.side.least_rate is not None and side.rates:
            return side.rate >= side.side.least_rate
        if side.side.target is None or not side.ratios:
            return None
        return side.ratio <= side.side.target if self.row.at_most else side.ratio >= side.side.target


class Workers:
    """One process a side, for all rows; a new one when it died. A context, which ends them."""

    def __init__(self, start: dict[str, Callable[[], Worker]]) -> None:
        self._start = start
        self._running: dict[str, Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            for worker in self._running.values():
                worker.dismiss()  # so that they end side by side
        for worker in self._running.values():
            worker.close(at_once=kind is not None)

    def start(self, names: Iterable[str]) -> None:
        """Start these, to be up when they are first asked."""
        for name in names:
            if name not in self._running:
                self._running[name] = self._start[name]()

    def measure(self, side: Side) -> float:
        """Items a second of one repeat.

        Raises:
            RuntimeError: it failed.
        """
        items, seconds = self.ask(side.where, side.task, **side.options)
        return items / seconds

    def ask(self, where: str, task: str, **options: Any) -> Any:
        """The result of a task of a process, which is started if need be; see `Worker.ask`."""
        worker = self._running.get(where)
        if worker is None or not worker.alive:
            worker = self._running[where] = self._start[where]()
        return worker.ask(task, **options)


def num_measurements(rows: Sequence[Row], repeats: int) -> int:
    """Of all sides, those that do not count included."""
    return sum(len(row.sides) * (repeats * row.times + 1) for row in rows)


def repeats_of(rows: Sequence[Row], repeats: int) -> str:
    """How many count, in words: of all rows, and of those that have more."""
    more = {times: [row.title for row in rows if row.times == times] for times in {row.times for row in rows} - {1}}
    return "; ".join(
        [str(repeats), *(f"{times * repeats} of {' and '.join(titles)}" for times, titles in more.items())]
    )


def measure_row(row: Row, repeats: int, workers: Workers, bar: tqdm) -> RowResult:
    """All sides of a row in turn, after one round that does not count; every other round from the last to the first,
    so that no side always follows the same one, whose threads and memory it may have to wait for.

    Args:
        row: what to measure.
        repeats: rounds that count, `row.times` over.
        workers: who measure.
        bar: moves on by one a measurement.
    """
    rates: list[list[float]] = [[] for _ in row.sides]
    errors = [""] * len(row.sides)
    for turn in range(repeats * row.times + 1):
        numbered = [*enumerate(row.sides)]
        for number, side in numbered if turn % 2 == 0 else reversed(numbered):
            bar.set_postfix_str(side.task)
            bar.update()
            if errors[number]:
                continue
            try:
                rate = workers.measure(side)
            except RuntimeError as error:
                errors[number] = str(error)
                continue
            if turn:
                rates[number].append(rate)
    return RowResult(row, tuple(_result(row, number, rates, errors) for number in range(len(row.sides))))


def _result(row: Row, number: int, rates: list[list[float]], errors: list[str]) -> SideResult:
    own, theirs = rates[0], rates[number]
    if number == 0 or errors[0] or errors[number]:
        ratios = []
    else:
        pairs = zip(own, theirs, strict=True)
        ratios = [b / a if row.at_most else a / b for a, b in pairs]
    return SideResult(row.sides[number], tuple(theirs) if not errors[number] else (), tuple(ratios), errors[number])
