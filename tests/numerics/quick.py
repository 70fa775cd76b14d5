"""Leaves out of a training run what a test does not look at: pictures, and the long search for a decision."""

import functools

import pytest

from steel.thresholds.search_space import SearchSpace
from steel.thresholds.tuning import tune_thresholds
from train.engine.curves_process import CurvesProcess

COARSE = SearchSpace(pixel_thresholds=(64, 128), label_thresholds=(128,), area_steps=2)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test's end."""
    for draws in ("draw_beside", "draw_at_last"):
        monkeypatch.setattr(CurvesProcess, draws, lambda self, **how: None)
    monkeypatch.setattr(
        "train.engine.validation.tune_thresholds", functools.partial(tune_thresholds, gates=("none",), space=COARSE)
    )
