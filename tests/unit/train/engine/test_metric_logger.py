"""The history of a run is written beside training: in order, before the states that count on it, or with an error."""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.tracking.history import History
from steel.tracking.items import Item, Summary
from steel.tracking.queue import NullTracker
from train.engine.curves_process import CurvesProcess
from train.engine.loop_state import LoopState
from train.engine.metric_logger import MainMetricLogger
from train.engine.state_writer import StateWriter

WAIT_S = 20.0


class Disk:
    """Lets a line through when it is told to, from the one of `full_at` on none at all."""

    def __init__(self) -> None:
        self.is_free = threading.Event()
        self.full_at: int | None = None

    def around(self, append: Callable[..., None]) -> Callable[..., None]:
        def slow(history: History, record: Mapping[str, Any]) -> None:
            assert self.is_free.wait(WAIT_S)
            if record["step"] == self.full_at:
                raise OSError(28, "No space left on device")
            append(history, record)

        return slow


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(History, "append", disk.around(History.append))
    monkeypatch.setattr(CurvesProcess, "draw_at_last", lambda self, **how: None)
    yield disk
    disk.is_free.set()


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    return history


@pytest.fixture
def metric_logger(history: History, tmp_path: Path) -> MainMetricLogger:
    return MainMetricLogger(history, NullTracker(), CurvesProcess(history, tmp_path / "curves.png"), [])


def log(metric_logger: MainMetricLogger, step: int) -> None:
    place = {"kind": "train", "phase": 0, "step": step, "global_step": step, "epoch": 0.0}
    metric_logger.log(place, lambda: {"loss": 1.0})


def steps_of(history: History) -> list[int]:
    return [record["step"] for record in history.records()]


def test_a_slow_disk_holds_nothing_up_and_loses_nothing(
    metric_logger: MainMetricLogger, history: History, disk: Disk
) -> None:
    for step in range(50):
        log(metric_logger, step)
    assert steps_of(history) == []
    disk.is_free.set()
    metric_logger.finish("finished")
    assert steps_of(history) == list(range(50))


def test_a_tracker_counts_the_epochs_that_were_trained_also_by_an_attempt_before(
    history: History, disk: Disk, tmp_path: Path
) -> None:
    """As the curves do: a phase that stopped early leaves no gap before the next."""

    class Told(NullTracker):
        def __init__(self) -> None:
            self.epochs: list[float] = []

        def log(self, figures: Mapping[str, Any], global_step: int) -> None:
            self.epochs.append(figures["epoch"])

    disk.is_free.set()
    told = Told()
    for phase, epochs in ((0, (1.0, 2.5)), (1, (0.5,))):  # an attempt for each phase
        logger = MainMetricLogger(history, told, CurvesProcess(history, tmp_path / "curves.png"), [])
        for epoch in epochs:
            logger.log({"kind": "train", "phase": phase, "step": 1, "global_step": 9, "epoch": epoch}, dict)
        logger.finish("finished")
    assert told.epochs == [1.0, 2.5, 3.0]


def test_what_a_record_says_is_computed_beside_training_and_pictures_come_after_it(
    history: History, disk: Disk, tmp_path: Path
) -> None:
    told: list[str] = []

    class Told(NullTracker):
        def log(self, record: Mapping[str, Any], step: int) -> None:
            told.append(f"figures of {step}")

        def show(self, item: Item, step: int) -> None:
            told.append(f"pictures of {step}")

    logger = MainMetricLogger(history, Told(), CurvesProcess(history, tmp_path / "curves.png"), [])
    may_compute, by = threading.Event(), []

    def compute() -> dict[str, float]:
        assert may_compute.wait(WAIT_S)
        by.append(threading.current_thread())
        return {"loss": 1.0}

    disk.is_free.set()
    logger.log({"kind": "train", "phase": 0, "step": 7, "global_step": 7, "epoch": 0.0}, compute)  # comes back at once
    logger.show(Summary({}))
    assert told == [] and steps_of(history) == []
    may_compute.set()
    logger.wait_until_written()
    assert told == ["figures of 7", "pictures of 7"] and steps_of(history) == [7]
    assert by != [threading.current_thread()]
    logger.finish("finished")


def test_a_state_comes_after_the_lines_before_it(
    metric_logger: MainMetricLogger, history: History, disk: Disk, tmp_path: Path
) -> None:
    """Else a run that resumes from it would have a history without them."""
    states = tmp_path / "states"
    writer = StateWriter(states, keep=1, wait_for_records=metric_logger.wait_until_written)
    log(metric_logger, 1)
    writer.submit(LoopState(step=1), (), {"w": torch.zeros(1)})  # comes back at once
    assert not threading.Event().wait(0.3) and not writer.is_idle and not states.exists()
    disk.is_free.set()
    writer.wait()
    assert [path.name for path in states.iterdir()] == ["000000-00000001"] and steps_of(history) == [1]
    writer.close()
    metric_logger.finish("interrupted")


def test_a_full_disk_is_told_and_leaves_no_gap(
    metric_logger: MainMetricLogger, history: History, disk: Disk, tmp_path: Path
) -> None:
    states = tmp_path / "states"
    writer = StateWriter(states, keep=1, wait_for_records=metric_logger.wait_until_written)
    disk.full_at = 2
    for step in (1, 2, 3):
        log(metric_logger, step)
    writer.submit(LoopState(step=3), (), {"w": torch.zeros(1)})
    disk.is_free.set()
    with pytest.raises(OSError, match="No space left"):
        metric_logger.wait_until_written()
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    with pytest.raises(OSError, match="No space left"):
        log(metric_logger, 4)
    writer.close()
    metric_logger.finish("failed")  # a run that ends for that has no second error
    assert steps_of(history) == [1] and not states.exists()
