"""Leaves out of a training run what a test does not look at: pictures, and the long search for a decision."""

import functools

import pytest

from steel.evaluation.calibration import calibrate
from steel.evaluation.search_space import SearchSpace

COARSE = SearchSpace(pixel_thresholds=(64, 128), label_thresholds=(128,), area_steps=2)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test's end."""
    monkeypatch.setattr("train.records.plot_history", lambda records, path: None)
    monkeypatch.setattr("train.judge.calibrate", functools.partial(calibrate, gates=("none",), space=COARSE))
