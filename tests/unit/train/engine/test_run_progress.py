"""What a run says of itself while it runs."""

import numpy as np
import pytest

from steel.config import PhaseConfig, SamplingConfig
from steel.loading.hard_sampler import favour_missed
from steel.loading.sampler import build_sampler
from train.engine.batch_plan import PhasePlan
from train.engine.run_progress import announce_hard


def test_a_class_called_clean_is_not_the_share_of_clean_images(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "train.fit")
    sampling = SamplingConfig(hard=0.5)
    areas = np.array([[0], [50]] * 4, np.int32)
    missed = [0.25, 0.75]
    sampler = favour_missed(build_sampler(np.arange(8), areas, sampling, seed=0, phase=1), missed)
    phase = PhaseConfig("full", epochs=1, crop=(64, 64), batch_size=8, micro_batch=8, lr=0.1, sampling=sampling)
    plan = PhasePlan(1, phase, 8, 8, 0, range(1))
    announce_hard(plan, sampler, missed, ["clean"])
    (line,) = caplog.messages
    assert "clean (no class) 25% (false alarms on 25%), clean 75% (positive Dice 0.25)" in line
