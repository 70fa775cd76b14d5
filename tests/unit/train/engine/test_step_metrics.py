"""What all ranks saw in a step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from steel.distributed.signals import StopSignals
from train.engine.batch_plan import PhasePlan
from train.engine.step import StepSums
from train.engine.step_metrics import FinishedStep, Speed, StepMetrics
from train.engine.stopwatch import TimedIterator
from train.presets import SMOKE

PLAN = PhasePlan(0, replace(SMOKE.phases[0], epochs=1000), 8, 8, 0, range(4))


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
        losses={
            "segmentation": torch.tensor(loss, dtype=torch.float64),
            "boundary": torch.tensor(loss / 2, dtype=torch.float64),
        },
        skipped=torch.tensor(float(skipped)),
        sample_losses=torch.tensor(sample_losses),
        rows=torch.tensor([10, 11]),
        bad_samples=0,
    )


def step_metrics(fp16: bool = False, runtime: object = None) -> StepMetrics:
    return StepMetrics(runtime or OneRank(), StopSignals(), fp16=fp16)  # type: ignore[arg-type]


def watch(watched: StepMetrics, *steps: StepSums) -> list[FinishedStep]:
    found = [watched.push(PLAN, step, 1e-3, each) for step, each in enumerate(steps)]
    return [done for done in [*found, watched.flush()] if done is not None]


def test_a_step_is_read_one_step_late() -> None:
    watched = step_metrics()
    assert watched.push(PLAN, 0, 0.25, sums(1.5)) is None
    done = watched.push(PLAN, 1, 0.5, sums(9.0))
    assert done is not None
    assert (done.step, done.lr, done.losses, done.skipped, done.suspects) == (
        *(0, 0.25, {"segmentation": 1.5, "boundary": 0.75}),
        *(False, []),
    )
    last = watched.flush()
    assert last is not None and (last.step, last.lr, last.losses["segmentation"]) == (1, 0.5, 9.0)
    assert watched.flush() is None


def test_losses_and_replaced_samples_are_summed_over_ranks() -> None:
    (done,) = watch(step_metrics(runtime=TwoRanks()), replace(sums(1.5), bad_samples=2))
    assert (done.losses, done.bad_samples, done.skipped) == ({"segmentation": 3.0, "boundary": 1.5}, 4, False)
    (done,) = watch(step_metrics(runtime=TwoRanks()), sums(skipped=True))
    assert done.skipped


def test_the_suspects_are_the_samples_whose_loss_is_not_finite() -> None:
    first, second = watch(step_metrics(), sums(math.inf, True, (1.0, math.inf)), sums(math.nan, True, (math.nan, 1.0)))
    assert (first.suspects, second.suspects) == ([11], [10])


def test_without_a_bad_loss_all_samples_of_the_step_are_suspects() -> None:
    (done,) = watch(step_metrics(), sums(1.0, True))
    assert done.suspects == [10, 11]


@pytest.mark.parametrize("fp16", [True, False])
def test_a_finite_loss_whose_scaled_gradient_overflowed_is_the_scalers_doing(fp16: bool) -> None:
    overflown, not_finite, taken = watch(
        step_metrics(fp16), sums(1.0, True), sums(math.nan, True, (math.nan, 1.0)), sums(1.0)
    )
    assert overflown.is_overflow == fp16
    assert not not_finite.is_overflow and not taken.is_overflow


class Clock:
    """Stands still but for what a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("train.engine.stopwatch.time.perf_counter", lambda: self.now)


def test_images_per_second_are_those_of_the_steps_since_the_last_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 8 images, the n-th of n seconds; a rate each 4 steps, and one of the single step that is left over."""
    clock, rates = Clock(monkeypatch), []
    watched = step_metrics()
    clock.now += 1000  # what came before the first step
    watched.restart_clock()
    for step in range(9):
        clock.now += step + 1
        done = watched.push(PLAN, step, 1e-3, sums())
        if done is not None and (done.step + 1) % 4 == 0:
            rates.append(watched.take_speed().images_per_second)
    clock.now += 50  # the state, written before the last step is read
    watched.flush()
    assert [*rates, watched.take_speed().images_per_second] == [3.2, 1.23, 0.89]  # 32 / 10, 32 / 26, 8 / 9


def test_a_validation_is_left_out_of_images_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls between the second and the third of four steps."""
    clock = Clock(monkeypatch)
    watched = step_metrics()
    for step in range(4):
        clock.now += 2
        watched.push(PLAN, step, 1e-3, sums())
        if step == 1:
            watched.flush()
            clock.now += 500
            watched.restart_clock()
    watched.flush()
    assert watched.take_speed().images_per_second == 4.0


def test_the_share_of_time_that_steps_wait_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of 4 s, of which 1, 2 and 0 s are waits; then one of 2 s that waits for all of it."""
    clock = Clock(monkeypatch)
    watched = step_metrics()
    watched.restart_clock()
    waits = [1.0, 2.0, 0.0]
    for step, wait in enumerate(waits):
        clock.now += 4
        watched.push(PLAN, step, 1e-3, sums(), data_wait=wait)
    done = watched.flush()
    assert done is not None and done.data_wait == 0.0
    assert watched.take_speed().data_wait == 0.25
    clock.now += 2
    watched.push(PLAN, 3, 1e-3, sums(), data_wait=2.0)
    watched.flush()
    assert watched.take_speed().data_wait == 1.0


def test_the_wait_for_data_is_the_mean_over_ranks() -> None:
    watched = step_metrics(runtime=TwoRanks())
    watched.push(PLAN, 0, 1e-3, sums(), data_wait=3.0)
    done = watched.flush()
    assert done is not None and done.data_wait == 3.0


def test_an_iterator_knows_how_long_it_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow() -> Iterator[int]:
        for seconds in (1, 2, 5):
            clock.now += seconds
            yield seconds

    timed = TimedIterator(slow())
    assert [next(timed), next(timed)] == [1, 2]
    clock.now += 100  # the consumer's own time
    assert (timed.take_seconds(), list(timed), timed.take_seconds()) == (3.0, [5], 5.0)


def test_no_time_gives_no_images_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock too coarse for a step."""
    Clock(monkeypatch)
    watched = step_metrics()
    watch(watched, *[sums()] * 4)
    assert watched.take_speed() == Speed(None, None)


def test_a_stop_signal_of_another_rank_is_seen_one_step_late() -> None:
    watched = step_metrics(runtime=TwoRanks())
    assert watched.push(PLAN, 0, 1e-3, sums()) is None
    done = watched.push(PLAN, 1, 1e-3, sums())
    assert done is not None and done.told_to_stop


@pytest.mark.parametrize("told", ["can_save", "save_due"])
def test_all_ranks_know_after_the_step_in_which_one_says_so(told: str) -> None:
    """That a state is due, and that one can be saved; the other of the two ranks says what this one does."""
    watched = step_metrics(runtime=TwoRanks())
    steps = [watched.push(PLAN, step, 1e-3, sums(), **{told: step == 1}) for step in range(3)]
    found = [(done.can_save, done.save_due) for done in [*steps, watched.flush()] if done is not None]
    assert found == [(False, False), (told == "can_save", told == "save_due"), (False, False)]
