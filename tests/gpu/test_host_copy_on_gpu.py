"""Values that are read later: when they are there, and without a wait for what the device was told to do after them."""

import pytest
import torch

from steel.distributed.signals import StopSignals
from steel.model.host_copy import HostCopy
from tests.gpu.places import LR, PLACES, behind, job_on, no_host_waits
from tests.numerics.one_step import config_of, plan_of
from train.engine.step import StepSums
from train.engine.step_metrics import FinishedStep, StepMetrics


@pytest.mark.parametrize("place", PLACES)
def test_reading_figures_waits_for_the_step_before_alone(place: torch.device) -> None:
    with job_on(place) as runtime:
        metrics, plan = StepMetrics(runtime, StopSignals(), fp16=False), plan_of(config_of(batch_size=6, micro_batch=3))

        def push(step: int) -> FinishedStep | None:
            loss = torch.full((), step, dtype=torch.float64, device=place)
            no, losses = torch.zeros((), device=place), torch.zeros(6, device=place)
            return metrics.push(plan, step, LR, StepSums({"segmentation": loss}, no, losses, torch.arange(6), 0))

        for step in range(3):  # what pinned memory it takes is there
            push(step)
        with behind(place), no_host_waits(place):
            done = push(3)
        last = metrics.flush()
    assert done is not None and (done.step, done.losses) == (2, {"segmentation": 2.0})
    assert last is not None and (last.step, last.losses) == (3, {"segmentation": 3.0})


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_what_another_gpu_has_is_waited_for_there() -> None:
    """As with `--device cuda:1`: the current one has nothing to do."""
    other = torch.device("cuda", 1)
    numbers = torch.zeros(2**20, device=other)
    HostCopy(numbers).tensor()
    with torch.cuda.device(other):
        torch.cuda._sleep(10**9)
    numbers.add_(1)
    assert torch.cuda.current_device() == 0
    assert HostCopy(numbers).tensor().eq(1).all()
