"""When a run's curves are drawn, and that training does not wait for them."""

import errno
import logging
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steel.reports.plots import plot_history
from steel.tracking.history import History
from steel.tracking.queue import NullTracker, Status
from tests.paths import ROOT
from train.engine import curves_process as module
from train.engine import draw_curves
from train.engine.batch_plan import PhasePlan
from train.engine.curves_process import EVERY_S, CurvesProcess
from train.engine.metric_logger import MainMetricLogger
from train.presets import SMOKE

PLAN = PhasePlan(0, replace(SMOKE.phases[0], epochs=1000), 8, 8, 0, range(4))
SCORES = dict.fromkeys(("mean_dice_cross_fitted", "mean_dice", "mean_dice_all_empty", "mean_dice_positive"), 0.5)
DEADLINE_S = 60.0


def _log_validation(logger: MainMetricLogger, step: int) -> None:
    place = {"kind": "validation", "phase": 0, "step": step, "global_step": step, "epoch": float(step)}
    logger.log(place, lambda: {**SCORES, "warning": ""})
    logger.wait_until_written()


def _validate(logger: MainMetricLogger, step: int) -> None:
    _log_validation(logger, step)
    logger._draw_what_is_due()  # as the next record does


def _logger(folder: Path) -> MainMetricLogger:
    history = History(folder / "history.jsonl")
    history.open_at(0, 0)
    return MainMetricLogger(history, NullTracker(), CurvesProcess(history, folder / "curves.png"), [PLAN])


def _drawn_here(folder: Path) -> bytes:
    plot_history(History(folder / "history.jsonl").records(), folder / "expected.png")
    return (folder / "expected.png").read_bytes()


def test_a_validation_has_the_curves_drawn_by_another_process(tmp_path: Path) -> None:
    logger = _logger(tmp_path)
    _validate(logger, 1)
    deadline = time.monotonic() + DEADLINE_S
    while not (tmp_path / "curves.png").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (tmp_path / "curves.png").read_bytes() == _drawn_here(tmp_path)
    _validate(logger, 2)
    logger.finish("finished")
    assert (tmp_path / "curves.png").read_bytes() == _drawn_here(tmp_path)


def test_a_drawing_is_started_by_the_thread_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next record, and not by the one that writes: see `MainMetricLogger._take`."""
    started_by: list[threading.Thread] = []
    monkeypatch.setattr(CurvesProcess, "draw_beside", lambda self: started_by.append(threading.current_thread()))
    logger = _logger(tmp_path)
    _log_validation(logger, 1)
    assert not started_by
    _log_validation(logger, 2)
    assert started_by == [threading.current_thread()]
    logger.finish("finished")


class _Drawing:
    """A process that draws until it is told that it has ended, or is killed."""

    def __init__(self) -> None:
        self.returncode: int | None = None

    def end(self) -> None:
        self.returncode = 0

    def kill(self) -> None:
        self.returncode = -9

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.returncode = self.returncode or 0
        return self.returncode


def test_curves_are_drawn_once_a_minute_one_drawing_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After the first validation, then after one that comes a minute later; what has not ended by then is ended."""
    now = 1000.0
    started: list[_Drawing] = []
    drawn: list[int] = []

    def start(command: list[str], **options: Any) -> _Drawing:
        assert options["start_new_session"]  # else a terminal's Ctrl-C ends it with a traceback
        started.append(_Drawing())
        return started[-1]

    monkeypatch.setattr(module.subprocess, "Popen", start)
    monkeypatch.setattr(module, "plot_history", lambda records, path: drawn.append(len(records)))
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    logger = _logger(tmp_path)
    _validate(logger, 1)
    assert len(started) == 1
    now += EVERY_S - 1
    _validate(logger, 2)
    assert len(started) == 1
    started[0].end()
    now += 1
    _validate(logger, 3)
    assert len(started) == 2 and not caplog.records
    now += EVERY_S - 1
    _validate(logger, 4)
    assert len(started) == 2 and started[1].returncode is None
    now += 1
    with caplog.at_level(logging.WARNING, logger="train.fit"):
        _validate(logger, 5)
    assert len(started) == 3 and started[1].returncode == -9
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'curves.png'} not drawn: its process ended with -9"
    ]
    assert drawn == []
    logger.finish("finished")
    logger.finish("finished")
    assert drawn == [5]


@pytest.mark.parametrize(("status", "told"), [("failed", 0), ("interrupted", 1), ("finished", 1)])
def test_on_a_full_disk_the_error_that_ended_a_run_is_its_last_line(
    status: Status, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "plot_history", refuse)
    with caplog.at_level(logging.WARNING, logger="train.fit"):
        _logger(tmp_path).finish(status)
    assert len(caplog.records) == told


def test_training_does_not_wait_for_a_drawing_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end it has a little time left, and is then ended; the picture is drawn all the same, and nothing said."""
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    logger = _logger(tmp_path)
    begun = time.monotonic()
    for step in range(1, 20):
        _validate(logger, step)
    assert time.monotonic() - begun < 5  # twenty drawings, or one that is waited for, take longer
    with caplog.at_level(logging.WARNING, logger="train.fit"):
        logger.finish("finished")
    assert (tmp_path / "curves.png").read_bytes() == _drawn_here(tmp_path)
    assert not caplog.records


HANGING = """
import os, sys, time
from train.engine import draw_curves
os.fsync = lambda handle: time.sleep(600)
draw_curves.main(*sys.argv[3:])
"""


def test_a_drawing_that_is_killed_while_it_writes_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    hanging = tmp_path / "hanging"
    hanging.mkdir()
    (hanging / "draws.py").write_text(HANGING)
    (hanging / "python").write_text(f'#!/bin/sh\nexec {python} {hanging}/draws.py "$@"\n')
    (hanging / "python").chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "executable", str(hanging / "python"))
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    run = tmp_path / "run"
    run.mkdir()
    logger = _logger(run)
    _validate(logger, 1)
    deadline = time.monotonic() + DEADLINE_S
    while not list(run.rglob(".unfinished-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    logger.finish("finished")
    assert sorted(path.name for path in run.iterdir()) == ["curves.png", "history.jsonl"]


def test_a_drawing_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Here the picture's name is taken by a folder; so too at the end of the run, which it does not spoil."""
    (tmp_path / "curves.png").mkdir()
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    curves = CurvesProcess(history, tmp_path / "curves.png")
    curves.draw_beside()
    assert curves._process is not None
    curves._process.wait(DEADLINE_S)
    with caplog.at_level(logging.WARNING, logger="train.fit"):
        curves.draw_beside()
        curves.draw_at_last()
    taken = (
        f"{tmp_path / 'curves.png'} not drawn: {tmp_path / 'curves.png'}: a folder; give the name of the file to write"
    )
    assert [record.getMessage() for record in caplog.records] == [taken, taken]


def test_it_draws_at_a_low_priority_with_the_curves_of_extensions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = tmp_path / "curves_of_a_plant.py"
    plant.write_text("")
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    nicer: list[int] = []
    monkeypatch.setenv("STEEL_EXTENSIONS", str(plant))
    monkeypatch.setattr(draw_curves.os, "nice", nicer.append)
    draw_curves.main(str(history.path), str(tmp_path / "curves.png"), str(tmp_path))
    assert (tmp_path / "curves.png").read_bytes() == _drawn_here(tmp_path)
    assert nicer[0] > 0 and sys.modules.pop(plant.stem)


def test_a_drawing_that_says_much_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds."""
    talker = tmp_path / "talker"
    talker.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\n")
    talker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(talker))
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    curves = CurvesProcess(history, tmp_path / "curves.png")
    curves.draw_beside()
    assert curves._process is not None and curves._process.wait(DEADLINE_S) == 0
