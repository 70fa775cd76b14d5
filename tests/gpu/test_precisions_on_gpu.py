"""Real steps in each precision: nothing waits for the device, and what fp16 cannot hold is skipped."""

import pytest
import torch

from steel.distributed.signals import StopSignals
from tests.gpu.places import LR, PLACES, changed, job_on, look, micro_batches, no_host_waits, training_of
from tests.numerics.one_step import plan_of
from train.engine.device_batches import device_batches
from train.engine.loop_state import OVERFLOW_PATIENCE, LoopState
from train.engine.step_metrics import StepMetrics


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_no_step_waits_for_the_device(place: torch.device, precision: str) -> None:
    """But for the figures of the step before."""
    with job_on(place, precision) as runtime:
        training, computed_in = training_of(runtime), set()
        training.model.segmentation_head.register_forward_hook(lambda head, given, out: computed_in.add(out.dtype))
        metrics, plan = StepMetrics(runtime, StopSignals(), fp16=precision == "fp16"), plan_of(training.config)
        batches, before = device_batches(micro_batches(place, plan), runtime.device), look(training)
        for step in range(3):  # allocates, tunes and caches
            metrics.push(plan, step, LR, training.step(plan, step, LR, batches))
        with no_host_waits(place):
            for step in range(3, 6):
                done = metrics.push(plan, step, LR, training.step(plan, step, LR, batches))
                assert done is not None and done.step == step - 1
        last = metrics.flush()
        batches.close()
        assert last is not None and not last.skipped
        assert computed_in == {{"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
        assert any(name.startswith("model.") for name in changed(before, training))


@pytest.mark.parametrize("place", PLACES)
def test_an_overflow_is_skipped_and_training_goes_on(place: torch.device) -> None:
    """The scale is halved until it fits; no host waits for that. The steps until then change nothing else."""
    with job_on(place, "fp16") as runtime:
        training, state = training_of(runtime), LoopState()
        assert training.scaler is not None
        metrics, plan = StepMetrics(runtime, StopSignals(), fp16=True), plan_of(training.config)
        batches = device_batches(micro_batches(place, plan), runtime.device)
        training.step(plan, 0, LR, batches)  # the scaler is told where it is
        training.scaler.load_state_dict(training.scaler.state_dict() | {"scale": 2.0**36})
        before, skipped = look(training), 0
        for step in range(1, OVERFLOW_PATIENCE):
            with no_host_waits(place):
                metrics.push(plan, step, LR, training.step(plan, step, LR, batches))
            done = metrics.flush()
            assert done is not None and done.is_overflow == done.skipped
            assert not state.count_step(done)
            if not done.skipped:
                break
            skipped += 1
            assert changed(before, training) == []
            assert training.scaler.get_scale() == 2.0 ** (36 - skipped)
        batches.close()
        assert 0 < skipped < OVERFLOW_PATIENCE - 2
        assert (state.scaler_overflows, state.nonfinite_steps, state.overflow_streak) == (skipped, 0, 0)
        assert {name.partition(".")[0] for name in changed(before, training)} >= {"model", "average", "optimizer"}
