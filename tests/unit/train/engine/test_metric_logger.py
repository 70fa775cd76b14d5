"""When a run's curves are drawn: all ranks wait for rank 0 meanwhile."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steel.tracking.history import History
from steel.tracking.queue import NullTracker
from train.engine import metric_logger as module
from train.engine.batch_plan import PhasePlan
from train.engine.metric_logger import CURVES_SHARE, MainMetricLogger
from train.presets import SMOKE

PLAN = PhasePlan(0, replace(SMOKE.phases[0], epochs=1000), 8, 8, 0, range(4))
SCORES = dict.fromkeys(("mean_dice_cross_fitted", "mean_dice", "mean_dice_all_empty", "mean_dice_positive"), 0.5)
SECONDS = 2.0
"""That a drawing takes."""


def test_curves_are_drawn_for_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first validation, and after the next one that comes late enough; at the end of all that there is."""
    now = 1000.0
    drawn: list[int] = []

    def draw(records: Any, path: Path) -> None:
        nonlocal now
        now += SECONDS
        drawn.append(len(records))

    monkeypatch.setattr(module, "plot_history", draw)
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    logger = MainMetricLogger(history, NullTracker(), tmp_path / "curves.png", [PLAN])

    def validate(step: int) -> None:
        place = {"kind": "validation", "phase": 0, "step": step, "global_step": step, "epoch": float(step)}
        logger.log({**place, **SCORES, "warning": ""})

    validate(1)
    assert drawn == [1]
    now += CURVES_SHARE * SECONDS - 1
    validate(2)
    assert drawn == [1]
    now += 1
    validate(3)
    assert drawn == [1, 3]
    validate(4)
    logger.finish("finished")
    logger.finish("finished")
    assert drawn == [1, 3, 4]
