"""What finished steps and validations add up to."""

from dataclasses import replace
from typing import Any

import pytest

from steel.errors import InputError
from train.engine.batch_plan import PhasePlan
from train.engine.compilation import CompileChoice
from train.engine.loop_state import OVERFLOW_PATIENCE, LoopState, Window
from train.engine.metric_logger import train_figures
from train.engine.step_metrics import FinishedStep, Speed
from train.presets import SMOKE

PLAN = PhasePlan(1, replace(SMOKE.phases[0], epochs=1000), 16, 8, 30, range(4))


def finished(step: int = 0, **changes: Any) -> FinishedStep:
    losses = {"segmentation": changes.pop("segmentation", 0.75), "boundary": 0.25}
    usual = FinishedStep(PLAN, step, 1e-3, losses, False, False, 0, 0.0, False, False, False, [])
    return replace(usual, **changes)


NONFINITE = finished(skipped=True, segmentation=float("nan"))
OVERFLOW = finished(skipped=True, is_overflow=True)


def test_figures_are_the_mean_over_the_steps_of_its_window() -> None:
    state = LoopState(nonfinite_steps=5, scaler_overflows=6, bad_samples=1)
    for step, loss in enumerate((1.0, 2.0, 3.0, 6.0)):
        assert not state.count_step(finished(step, segmentation=loss, bad_samples=1, lr=step / 6))
    assert train_figures(state, Speed(40.0, 0.25)) == {
        "loss": 3.25,
        "loss_segmentation": 3.0,
        "loss_boundary": 0.25,
        "lr": 0.5,
        "images_per_second": 40.0,
        "data_wait": 0.25,
        "nonfinite_steps": 5,
        "scaler_overflows": 6,
        "bad_samples": 5,
    }


def test_a_record_belongs_after_its_last_step() -> None:
    # 4 steps of 8 of 16 samples, after 30 steps of other phases.
    assert PLAN.place_after(4) == {"phase": 1, "step": 4, "global_step": 34, "epoch": 2.0}


def test_a_window_of_skipped_steps_alone_has_no_loss() -> None:
    state = LoopState()
    state.count_step(NONFINITE)
    figures = train_figures(state, Speed(None, None))
    assert [figures[name] for name in ("loss", "loss_segmentation", "loss_boundary")] == [None] * 3


def test_skipped_steps_count_apart_from_the_loss() -> None:
    state = LoopState()
    assert [state.count_step(done) for done in (finished(), NONFINITE, NONFINITE)] == [False, True, True]
    assert (state.nonfinite_steps, state.nonfinite_streak) == (2, 2)
    state.count_step(finished())
    assert (state.nonfinite_steps, state.nonfinite_streak) == (2, 0)
    assert state.window == Window(2, {"segmentation": 1.5, "boundary": 0.5}, lr=1e-3)


def test_overflows_count_apart_and_do_not_end_a_streak() -> None:
    state = LoopState()
    assert [state.count_step(done) for done in (NONFINITE, OVERFLOW, NONFINITE)] == [True, False, True]
    assert (state.scaler_overflows, state.nonfinite_steps, state.nonfinite_streak) == (1, 2, 2)


def test_endless_overflows_are_not_endured() -> None:
    state = LoopState()
    for _ in range(OVERFLOW_PATIENCE + 3):
        state.count_step(OVERFLOW)
    assert (state.scaler_overflows, state.nonfinite_streak) == (OVERFLOW_PATIENCE, 3)
    state.count_step(finished())
    assert (state.overflow_streak, state.nonfinite_streak) == (0, 0)


def test_only_a_better_score_keeps_a_phase_fresh() -> None:
    state = LoopState(validation_due=True)
    scores = (-0.5, -0.5, -0.75, 0.25)
    found = [(state.count_validation(score, []), state.phase_best, state.stale) for score in scores]
    assert found == [(True, -0.5, 0), (False, -0.5, 1), (False, -0.5, 2), (True, 0.25, 0)]
    assert not state.validation_due


def test_a_phase_begins_without_what_the_one_before_it_left() -> None:
    state = LoopState(0, 9, phase_best=0.5, stale=2, nonfinite_steps=3, window=Window(1, {"segmentation": 1.0}))
    state.start_phase(1)
    assert state == LoopState(1, 0, nonfinite_steps=3)


def test_a_choice_to_compile_is_of_its_phase_also_where_an_earlier_one_has_none() -> None:
    """As where a stop signal came before it was chosen, and the phase ended with that."""
    state, choice = LoopState(phase=1), CompileChoice(True, 1.5)
    assert state.compilation is None
    state.compilation = choice
    assert state.compilation == choice and state.compilations == [CompileChoice(False), choice]


def test_a_phase_keeps_to_what_was_missed_before_it() -> None:
    state = LoopState()
    state.count_validation(0.5, [0.0, None, 0.25])
    assert (state.missed, state.missed_before) == ([0.0, None, 0.25], [])
    state.start_phase(1)
    state.count_validation(0.75, [0.0, None, 0.125])
    assert (state.missed, state.missed_before) == ([0.0, None, 0.125], [0.0, None, 0.25])


@pytest.mark.parametrize("field", ["missed", "missed_before"])
@pytest.mark.parametrize("value", [-0.25, 1.5])
def test_shares_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{field}: {value} is not in \[0, 1\]"):
        LoopState(**{field: [None, value]})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"step": -1}, {"bad_samples": 1 << 53}])
def test_counts_that_cannot_be_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(changes))} is "):
        LoopState(**changes)  # type: ignore[arg-type]
