"""How long a run still takes, worked by hand."""

from dataclasses import replace

from train.engine.batch_plan import plan_phases
from train.engine.pace import Pace, TimedStep, TimeLeft, Work
from train.engine.run_progress import describe_pace
from train.presets import SMOKE

PLANS = plan_phases(
    [replace(SMOKE.phases[0], epochs=2), replace(SMOKE.phases[1], epochs=1)], [80, 80], 1.0, rank=0, world=1
)
"""20 steps of 8 images with 2 validations, then 10 steps with 1."""
WORK = Work(PLANS, step_pixels=[1000, 4000], validation_pixels=6000, final_validations=3, final_views=2)


def step(seconds: float = 2.0, data_wait: float = 0.5, loss: float = 1.0) -> TimedStep:
    return TimedStep(8, seconds, data_wait, {"segmentation": loss, "classification": loss / 4})


def test_nothing_is_known_before_the_first_step() -> None:
    assert Pace(WORK).time_left(0, 0) is None


def test_what_was_not_measured_is_taken_from_pixels() -> None:
    """2 s for 1,000 pixels: 8 s for a step of the second phase, and a third of 12 s for a validation."""
    pace = Pace(WORK)
    pace.count_step(0, step(seconds=60))  # started the workers
    pace.count_step(0, step())
    pace.count_step(0, step())
    assert pace.time_left(0, 3) == TimeLeft(17 * 2.0 + 10 * 8.0, 3 * 4.0, 3 * 2 * 4.0)


def test_what_was_measured_counts() -> None:
    """A validation predicts for 10 s and tunes for 3 s; the second phase's steps take 5 s."""
    pace = Pace(WORK)
    pace.count_step(0, step())
    pace.count_validation(10.0, 3.0)
    assert pace.time_left(0, 10) == TimeLeft(10 * 2.0 + 10 * 8.0, 2 * 13.0, 3 * (2 * 10.0 + 3.0))
    pace.start_phase()
    assert pace.time_left(1, 0) == TimeLeft(10 * 8.0, 13.0, 69.0)
    pace.count_step(1, step(seconds=30))
    pace.count_step(1, step(seconds=5))
    left = pace.time_left(1, 2)
    assert left == TimeLeft(8 * 5.0, 13.0, 69.0)
    assert left.total == 122.0


def test_figures_of_recent_steps() -> None:
    pace = Pace(WORK)
    for n in range(200):  # the last 50 count
        pace.count_step(0, step(seconds=4.0 if n >= 150 else 1.0, data_wait=1.0, loss=2.0))
    pace.recent.append(TimedStep(8, 4.0, 1.0, {}))  # skipped
    assert (pace.images_per_second(), pace.data_wait()) == (2.0, 0.25)
    assert pace.losses() == {"segmentation": 2.0, "classification": 0.5}


def test_no_time_and_no_loss_are_no_figures() -> None:
    pace = Pace(WORK)
    pace.count_step(0, TimedStep(8, 0.0, 0.0, {}))
    assert (pace.images_per_second(), pace.data_wait(), pace.losses()) == (None, None, {})


def test_the_pace_in_words() -> None:
    words = describe_pace(TimeLeft(3600.0, 120.0, 60.0), 20, 84.21, 0.0)
    assert words.startswith(
        "1:03:00 to go at the pace of the first 20 steps (84.2 images/s): "
        "training 1:00:00, validations 2:00, choosing the model 1:00; ends about "
    )
