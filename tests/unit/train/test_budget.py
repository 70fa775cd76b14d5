"""Schedules that fit a time: the arithmetic, worked by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from steel.errors import InputError, SharedError, counted
from tests.recipe_inputs import LARGE, STRIPS
from train.arguments import parse_fit
from train.auto_recipe import auto_recipe
from train.budget import (
    PASSES,
    Budget,
    completed,
    explain_fit,
    fit_passes,
    parse_budget,
    refuse_hopeless,
    scale_to,
    seconds_of,
    seconds_of_steps,
    trainable,
)
from train.engine.batch_plan import PhasePlan, plan_phases
from train.engine.measured_pace import MeasuredPace
from train.engine.pace import Work
from train.presets import SEVERSTAL
from train.recipe_facts import DataFacts, MachineClass

PACE = MeasuredPace((0.01, 0.05), predicting=4.0, tuning=1.0)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("30m", Budget(seconds=1800)),
        ("1h30m", Budget(seconds=5400)),
        ("1.5h", Budget(seconds=5400)),
        ("2d", Budget(seconds=172800)),
        ("8passes", Budget(passes=8)),
        ("999999999d", Budget(seconds=999_999_999 * 86400)),
    ],
)
def test_a_budget_is_a_time_or_passes(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["30", "", "m", "-5m", "0m", "0passes", "30 m", "8 passes", "5m3", "tomorrow"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--budget .*give a time"):
        parse_budget(text)


@pytest.mark.parametrize("unit", ["m", "passes"])
@pytest.mark.parametrize("number", [f"1{'0' * 400}", "1000000000"])  # the first is infinite as a float
def test_a_number_without_measure_is_refused(number: str, unit: str) -> None:
    with pytest.raises(InputError, match=rf"--budget {number}{unit}: give a time, .*, of nine digits at most$"):
        parse_budget(number + unit)


def test_one_is_told_as_one() -> None:
    facts = DataFacts(870, 0, ("a",), (400,), (200, 200), (200, 200))
    reasons = auto_recipe(facts, MachineClass("gpu", 80), 1).reasons
    assert reasons["phases.0.epochs"].startswith("0.79 of the budget's 1 pass; without one, 100 passes over")
    assert reasons["validation.every-epochs"] == "1: about 1 validation in the first phase"
    assert scale_to(SEVERSTAL, 1).reasons["budget"].startswith("1 pass in place of 38")
    assert explain_fit(SEVERSTAL, 1, 1800, PACE, 1500).startswith("1 pass, for 30:00")
    assert [counted(number, "class") for number in (1, 2)] == ["1 class", "2 classes"]


def test_a_preset_keeps_its_proportion() -> None:
    scaled = scale_to(SEVERSTAL, 19)  # half of 30 + 8
    assert [phase.epochs for phase in scaled.phases] == [15, 4]
    assert "19 passes in place of 38: 15 of crops and 4 of full" in scaled.reasons["budget"]
    assert replace(scaled, phases=SEVERSTAL.phases, reasons={}) == SEVERSTAL


def test_auto_fits_batch_and_validations_to_the_passes() -> None:
    facts = DataFacts(870, 0, ("a",), (400,), (200, 200), (200, 200))
    long, short = (auto_recipe(facts, MachineClass("gpu", 80), passes) for passes in (None, 8))
    assert [phase.epochs for phase in short.phases] == [6.32, 1.69]  # of 8, 30 : 8
    assert (long.phases[0].batch_size, short.phases[0].batch_size) == (32, 8)  # 687 steps of 8 are still too few
    assert long.phases[0].lr == short.phases[0].lr == 2e-3  # whatever the batch
    assert short.validation.every_epochs == 1
    assert short.reasons["phases.0.epochs"].startswith("6.32 of the budget's 8 passes; without one, 100 passes")
    shortest = auto_recipe(facts, MachineClass("gpu", 80), 0.01)  # as of other presets
    assert [phase.epochs for phase in shortest.phases] == [0.01, 0.01]


def test_a_runs_seconds_are_its_steps_validations_and_the_choice_at_its_end() -> None:
    phases = (
        replace(SEVERSTAL.phases[0], epochs=3, batch_size=8),
        replace(SEVERSTAL.phases[1], epochs=1, batch_size=8),
    )
    work = Work(plan_phases(phases, [80, 80], 1.0, rank=0, world=1), (1, 1), 1, final_validations=2, final_views=4)
    # 240 crops and 80 whole images; four validations; at the end two sets of weights, each in four views and tuned.
    assert seconds_of(work, PACE) == pytest.approx(240 * 0.01 + 80 * 0.05 + 4 * 5 + 2 * (4 * 4 + 1))


def test_ranks_wait_for_the_one_with_the_most_micro_batches() -> None:
    """Whatever the batch was that the pace was measured with: in smaller ones the uneven share weighs more."""
    pace = MeasuredPace((0.01, 0.05), predicting=0.0, tuning=0.0, world=3)
    few, many = (
        plan_phases(
            [replace(phase, epochs=1, batch_size=size, micro_batch=8) for phase in SEVERSTAL.phases],
            *([640, 640], 1.0),
            rank=0,
            world=3,
        )
        for size in (32, 64)
    )
    # 20 steps of four micro-batches, of which a rank has two; 10 steps of eight, of which two ranks have three.
    assert seconds_of_steps(few, pace) == pytest.approx(20 * 16 * 0.06)
    assert seconds_of_steps(many, pace) == pytest.approx(10 * 24 * 0.06)
    config = replace(SEVERSTAL, phases=tuple(plan.phase for plan in few))
    assert "5 ms an image of crops, 25 ms an image of full" in explain_fit(config, 8, 1800, pace, 1500)


def one_batch(passes: float) -> list[int]:
    """Of presets, whose batches are the same whatever the length."""
    return [8]


def test_the_most_passes_that_take_nine_tenths_of_a_time() -> None:
    def fitted(budget: float) -> float:
        return fit_passes(one_batch, lambda passes: 20 * passes, lambda passes: 10 + 20 * passes, budget, 1)

    assert fitted(100) == 4.0  # 90 of 100
    assert fitted(99.9) == 3.9
    assert fitted(10000) == PASSES[-1] == 120
    with pytest.raises(
        InputError, match=r": 0:30 is .*: 1 pass .* needs about 1m in all .*; give --budget 1m, .*images$"
    ):
        fitted(30)  # 30 s are needed, and a tenth more


def test_a_longer_run_with_fewer_validations_is_found() -> None:
    def seconds(passes: float) -> float:
        return passes + 10 * (passes if passes < 22.5 else passes / 2)  # every second pass from there on

    def fitted(budget: float) -> float:
        return fit_passes(one_batch, lambda passes: passes, seconds, budget, 1)

    assert fitted(170) == 25  # 150 of 170, which 14 to 22 do not keep to
    assert fitted(150) == 12  # 132 of 150; 23 take 138


def test_a_longer_run_whose_larger_batches_ranks_share_better_is_found() -> None:
    """Of four micro-batches of 8 the busiest of three ranks has two, of eight three; of 2,000 images 1,200 train.

    That of 60 passes of both phases, 47.37 of the first, is the last with batches of 32: 94,740 / 64 < 1,500 steps.
    """
    facts = DataFacts(2000, 500, ("a",), (1500,), (256, 1600), (256, 1600))
    pace = MeasuredPace((0.01, 0.02), predicting=0.0, tuning=0.0, world=3)

    def plans(passes: float) -> Sequence[PhasePlan]:
        return plan_phases(auto_recipe(facts, LARGE, passes).phases, [1200, 1200], 1.0, rank=0, world=3)

    def batches(passes: float) -> list[int]:
        return [plan.phase.batch_size for plan in plans(passes)]

    def steps(passes: float) -> float:
        return seconds_of_steps(plans(passes), pace)

    def fitted(budget: float) -> float:
        return fit_passes(batches, steps, steps, budget, 3, trainable(plans))

    # 47.37 and 12.6 passes are 1,777 and 473 steps of 16 images; 48.16 and 12.8 are 903 and 240 of 24.
    assert (batches(60), steps(60)) == ([32, 32], pytest.approx(16 * (1777 * 0.01 + 473 * 0.02)))
    assert (batches(61), steps(61)) == ([64, 64], pytest.approx(24 * (903 * 0.01 + 240 * 0.02)))
    assert fitted(374) == 61  # 332 of nine tenths, 336.6; 62 take 338
    assert fitted(368) == 45  # 327.5 of 331.2; 46 take 334.4


def test_runs_whose_batches_are_too_small_for_the_ranks_are_left_out() -> None:
    def choices(world: int) -> Sequence[float]:
        def plan(passes: float) -> None:
            phases = auto_recipe(STRIPS, LARGE, passes).phases
            plan_phases(phases, [STRIPS.images] * 2, 1.0, rank=world - 1, world=world)

        return trainable(plan)

    assert choices(1) == PASSES
    assert choices(2) == PASSES[PASSES.index(2.5) :]  # 1.97 of them of crops: 1,547 steps of two micro-batches
    assert choices(8)[0] == 9.7
    with pytest.raises(InputError, match=r"^9 processes share 8 micro-batches .*--phases\.0\.micro-batch 4"):
        choices(9)


def test_what_shorter_runs_would_need_is_told() -> None:
    why = r"fewer passes have smaller batches, which take smaller micro-batches \(--phases\.N\.micro-batch\)"
    with pytest.raises(InputError, match=rf"2\.5 passes over .*; {why} or fewer than 2 processes \(--processes N\)$"):
        fit_passes(one_batch, lambda passes: passes, lambda passes: passes, 1, 2, (2.5, 2.6))
    with pytest.raises(InputError, match=rf"too short: 2\.5 passes over .*; {why}$"):
        refuse_hopeless(2.5, 3, 1, 2.5, 1)


def test_steps_alone_that_take_too_long_are_refused_before_all_is_measured() -> None:
    refuse_hopeless(108, 7000, 120, 1.0, 2)  # nine tenths, as planned for
    with pytest.raises(
        InputError,
        match=r"^--budget: 2:00 is too short: 1 pass .* needs about 2h10m in all .* guessed .*; give --budget 2h10m, ",
    ):
        refuse_hopeless(109, 7000, 120, 1.0, 2)


def test_what_is_not_measured_yet_is_guessed_by_pixels() -> None:
    phases = [replace(phase, batch_size=8) for phase in SEVERSTAL.phases]
    plans = plan_phases(phases, [80, 80], 1.0, rank=0, world=1)
    work = Work(plans, (8 * 1000, 8 * 4000), validation_pixels=60_000, final_validations=1, final_views=4)
    pace = MeasuredPace((0.01, 0.0), predicting=0.0, tuning=0.0, world=2)
    # 10 us a pixel; a validation a third of that, shared by two ranks.
    guessed = completed(pace, work)
    assert guessed.image_seconds == pytest.approx((0.01, 0.04)) and guessed.predicting == pytest.approx(0.1)
    assert completed(PACE, work) == PACE


def test_the_choice_is_told_with_what_it_was_made_of() -> None:
    told = explain_fit(SEVERSTAL, 8, 1800, PACE, 1500)
    assert told == (
        "8 passes, for 30:00: measured before the first step, 10 ms an image of crops, 50 ms an image of full and "
        "5 s a validation come to 25:00 of it"
    )
    assert explain_fit(SEVERSTAL, 120, 1800, PACE, 1500).startswith("120 passes, the most that a time is fitted to,")


def test_a_time_and_epochs_are_too_much(tmp_path: Path) -> None:
    words = ["--preset", "smoke", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--budget", "4passes"]
    assert [phase.epochs for phase in parse_fit("train", words).config.phases] == [2.67, 1.33]
    with pytest.raises(SharedError, match=r"--budget and --phases\.1\.epochs=2 both say how long"):
        parse_fit("train", [*words, "--phases.1.epochs=2"])
    timed = parse_fit("train", [*words[:-1], "5m"])
    assert timed.budget == Budget(seconds=300) and timed.wants_time_fitted(has_begun=False)
    assert timed.at_passes(4) == parse_fit("train", words).config
    with pytest.raises(InputError, match="was started without --budget"):
        timed.wants_time_fitted(has_begun=True)
