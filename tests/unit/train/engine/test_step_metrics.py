"""What the watched steps add up to."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steel.distributed.runtime import StopSignals
from train.engine.batch_plan import PhasePlan
from train.engine.loop_state import LoopState
from train.engine.step import StepSums
from train.engine.step_metrics import OVERFLOW_PATIENCE, StepMetrics
from train.presets import SMOKE

PLAN = PhasePlan(0, replace(SMOKE.phases[0], epochs=1000), 8, 8, 0)


class OneRank:
    world = 1
    device = torch.device("cpu")

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)


class TwoRanks:
    """This rank and another that saw the same, but that it was told to stop."""

    world = 2
    device = torch.device("cpu")

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        return [mine + (1.0 if place == 3 else mine) for place, mine in enumerate(numbers)]


def sums(loss: float = 1.0, skipped: bool = False, sample_losses: tuple[float, ...] = (1.0, 1.0)) -> StepSums:
    return StepSums(
        segmentation=torch.tensor(loss, dtype=torch.float64),
        classification=torch.zeros((), dtype=torch.float64),
        skipped=torch.tensor(float(skipped)),
        sample_losses=torch.tensor(sample_losses),
        rows=torch.tensor([10, 11]),
        bad_samples=0,
    )


def step_metrics(fp16: bool = False, runtime: object = None) -> StepMetrics:
    return StepMetrics(runtime or OneRank(), LoopState(), StopSignals(), log_every=4, fp16=fp16)  # type: ignore[arg-type]


def watch(step_metrics: StepMetrics, *steps: StepSums) -> list[dict]:
    records = [step_metrics.push(PLAN, step, each) for step, each in enumerate(steps)]
    return [record for record in [*records, step_metrics.flush()] if record]


def test_a_record_is_the_mean_over_its_steps_read_one_step_late() -> None:
    watched = step_metrics()
    for step, loss in enumerate((1.0, 2.0, 3.0, 6.0)):
        assert watched.push(PLAN, step, sums(loss)) is None
    record = watched.push(PLAN, 4, sums(9.0))
    assert record is not None
    assert record["loss"] == 3.0 and record["step"] == 4


def test_skipped_steps_count_apart_from_the_loss() -> None:
    watched = step_metrics()
    records = watch(watched, sums(1.0), sums(math.nan, True, (math.nan, 1.0)), sums(3.0), sums(5.0))
    assert records[0]["loss"] == 3.0 and records[0]["nonfinite_steps"] == 1
    assert watched.state.nonfinite_streak == 0 and watched.suspects == []


def test_the_suspects_are_the_samples_whose_loss_is_not_finite() -> None:
    watched = step_metrics()
    watch(watched, sums(math.inf, True, (1.0, math.inf)), sums(math.nan, True, (math.nan, 1.0)))
    assert watched.state.nonfinite_streak == 2 and watched.suspects == [11, 10]


def test_without_a_bad_loss_all_samples_of_the_step_are_suspects() -> None:
    watched = step_metrics()
    watch(watched, sums(1.0, True))
    assert watched.suspects == [10, 11]


@pytest.mark.parametrize("fp16", [True, False])
def test_overflows_of_the_fp16_scaler_count_apart(fp16: bool) -> None:
    """A finite loss whose scaled gradient overflowed, beside a loss that is itself not finite."""
    watched = step_metrics(fp16)
    watch(watched, sums(1.0, True), sums(math.nan, True, (math.nan, 1.0)), sums(1.0, True))
    assert watched.state.scaler_overflows == (2 if fp16 else 0)
    assert watched.state.nonfinite_steps == (1 if fp16 else 3)


def test_endless_overflows_are_not_endured() -> None:
    watched = step_metrics(fp16=True)
    watch(watched, *[sums(1.0, True)] * (OVERFLOW_PATIENCE + 3))
    assert watched.state.scaler_overflows == OVERFLOW_PATIENCE
    assert watched.state.nonfinite_streak == 3
    watch(watched, sums(1.0))
    assert watched.state.overflow_streak == 0


class Clock:
    """Stands still but for what a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("train.engine.stopwatch.time.perf_counter", lambda: self.now)


def test_images_per_second_are_those_of_the_records_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 8 images, the n-th of n seconds; a record each 4 steps, and one of the single step that is left over."""
    clock = Clock(monkeypatch)
    watched, plan = step_metrics(), replace(PLAN, phase=replace(PLAN.phase, epochs=9))
    clock.now += 1000  # what came before the first step
    watched.restart_clock()
    records = []
    for step in range(9):
        clock.now += step + 1
        records.append(watched.push(plan, step, sums()))
    clock.now += 50  # the state, written before the last step is read
    records = [record for record in [*records, watched.flush()] if record]
    assert [record["step"] for record in records] == [4, 8, 9]
    assert [record["images_per_second"] for record in records] == [3.2, 1.23, 0.89]  # 32 / 10, 32 / 26, 8 / 9


def test_a_validation_is_left_out_of_images_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls between the second and the third step of a record."""
    clock = Clock(monkeypatch)
    watched = step_metrics()
    for step in range(4):
        clock.now += 2
        watched.push(PLAN, step, sums())
        if step == 1:
            watched.flush()
            clock.now += 500
            watched.restart_clock()
    record = watched.flush()
    assert record is not None and record["images_per_second"] == 4.0


def test_no_time_gives_no_images_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock too coarse for a step."""
    Clock(monkeypatch)
    (record,) = watch(step_metrics(), *[sums()] * 4)
    assert record["images_per_second"] is None


def test_a_stop_signal_of_another_rank_is_seen_one_step_late() -> None:
    watched = step_metrics(runtime=TwoRanks())
    watched.push(PLAN, 0, sums())
    assert not watched.stop
    watched.push(PLAN, 1, sums())
    assert watched.stop
