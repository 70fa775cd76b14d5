"""How long the pace is measured for, on a clock that only the work moves."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from steel.errors import InputError
from train.engine import measured_pace as module
from train.engine.batch_plan import PhasePlan
from train.engine.measured_pace import MeasuredPace, measure_pace
from train.live_line import LiveLine
from train.presets import SMOKE

WARM_UP_S = 3.0
"""Of the first micro-batch of a phase, beside its own time."""


class Measurement:
    """What is measured, and when; nothing is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, micro_batch_s: float, image_s: float) -> None:
        self.now = 1000.0
        self.tried: list[str | int] = []
        """Names of phases, one for each micro-batch, and numbers of validation images."""
        self._micro_batch_s, self._image_s = micro_batch_s, image_s
        phases = [replace(phase, batch_size=8, micro_batch=8) for phase in SMOKE.phases]
        plans = [PhasePlan(number, phase, 100, 50, 0, range(1)) for number, phase in enumerate(phases)]
        runtime = SimpleNamespace(world=1, all_gather=lambda value: [value], on_main=lambda task: task())
        rows = SimpleNamespace(validation=range(100))
        self.context: Any = SimpleNamespace(plans=plans, runtime=runtime, rows=rows, live=LiveLine(shown=False))
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "untouched", lambda training: contextlib.nullcontext())
        monkeypatch.setattr(module, "set_encoder_trainable", lambda *given: None)
        monkeypatch.setattr(module, "there_and_back", self._there_and_back)
        monkeypatch.setattr(module, "_try_validation", self._try_validation)

    def run(self, *limit: Any) -> MeasuredPace:
        training: Any = SimpleNamespace(
            model=None, wrapped=SimpleNamespace(train=lambda: None), parameters=[], config=None
        )
        return measure_pace(self.context, training, self._load, *limit)

    def _load(self, plan: PhasePlan) -> Generator[Any, None, None]:
        self.now += WARM_UP_S
        while True:
            yield None

    def _there_and_back(self, training: Any, plan: PhasePlan, *given: Any) -> None:
        self.tried.append(plan.phase.name)
        self.now += self._micro_batch_s

    def _try_validation(self, context: Any, training: Any, num: int) -> tuple[float, float]:
        self.tried.append(num)
        self.now += num * self._image_s
        return num * self._image_s, 0.0


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], Measurement]:
    return lambda micro_batch_s, image_s: Measurement(monkeypatch, micro_batch_s, image_s)


def test_without_a_limit_phases_have_five_seconds_each(measured: Callable[[float, float], Measurement]) -> None:
    one = measured(1.0, 0.5)
    assert one.run() == MeasuredPace((0.125, 0.125), 50.0, 0.0)
    assert one.tried == ["crops"] * 6 + ["full"] * 6 + [8, 8, 40]


def test_ample_time_changes_nothing(measured: Callable[[float, float], Measurement]) -> None:
    one = measured(1.0, 0.5)
    one.run(180.0)
    assert one.tried == ["crops"] * 6 + ["full"] * 6 + [8, 8, 40]


def test_little_time_is_kept_to(measured: Callable[[float, float], Measurement]) -> None:
    """Three of the twelve seconds are each phase's, beside its first micro-batch."""
    one = measured(1.0, 0.1)
    assert one.run(12.0) == MeasuredPace((0.125, 0.125), 10.0, 0.0)
    assert one.tried == ["crops"] * 4 + ["full"] * 4 + [8, 8, 16]


def test_more_validation_images_are_tried_as_time_is_left(measured: Callable[[float, float], Measurement]) -> None:
    """Eighteen of the 31 seconds are left after the first eight images, half a second for each."""
    one = measured(1.0, 0.5)
    one.context.plans = one.context.plans[:1]
    one.run(31.0)
    assert one.tried == ["crops"] * 6 + [8, 8, 28]
    assert one.now == 1031.0


def test_a_machine_that_is_too_slow_tries_the_least(measured: Callable[[float, float], Measurement]) -> None:
    one = measured(20.0, 2.0)
    assert one.run(12.0) == MeasuredPace((2.5, 2.5), 200.0, 0.0)
    assert one.tried == ["crops"] * 2 + ["full"] * 2 + [8, 8, 16]


def test_what_is_hopeless_ends_the_measurement(measured: Callable[[float, float], Measurement]) -> None:
    one, seen = measured(20.0, 2.0), []

    def check(known: MeasuredPace) -> None:
        seen.append(known)
        raise InputError("too slow")

    with pytest.raises(InputError, match="too slow"):
        one.run(12.0, check)
    assert seen == [MeasuredPace((2.5, 0.0), 0.0, 0.0)]
    assert one.tried == ["crops"] * 2
