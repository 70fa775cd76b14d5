"""One training step on a GPU: refused steps leave no trace, and nothing waits for the device."""

import copy
import math

import pytest
import torch

from steel.config import LossConfig, NetworkConfig, OptimConfig
from steel.model.batch_norm import RunningStatistics
from steel.model.losses import head_losses
from steel.model.network import UnifiedModel, normalise
from steel.model.optimizer import (
    AveragedTensors,
    ExponentialAverage,
    build_optimizer,
    set_lr,
    step_if_finite,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
EVERY_LOSS = LossConfig(
    {"bce": 1, "dice": 1, "focal": 1, "tversky": 1, "lovasz": 1, "boundary": 1, "classification": 1},
    class_weights=(1, 2),
)


class Step:
    """A model on the GPU and all that moves with it."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = UnifiedModel(NetworkConfig("Unet", "resnet18", 2, 1, decoder_channels=(16, 8, 8)))
        self.model = self.model.cuda().to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.model, OptimConfig())
        self.statistics = RunningStatistics(self.model)
        self.average = ExponentialAverage(self.model, 0.9)
        self.images = torch.randint(0, 256, (4, 1, 64, 72), dtype=torch.uint8, device="cuda")
        self.masks = (torch.rand(4, 2, 64, 72, device="cuda") < 0.2).float()
        self.valid = torch.ones(4, 1, 64, 72, device="cuda")

    def take(self, poison=1.0):
        """A step; a gradient multiplied by `poison` that is not finite must be refused."""
        set_lr(self.optimizer, 1e-3)
        before = self.statistics.take()
        inputs = poison * normalise(self.images, (0.5,), (0.25,)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            outputs = self.model(inputs)
        losses = head_losses(outputs, self.masks, self.valid, EVERY_LOSS)
        torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        refused = (~torch.isfinite(norm)).float()
        step_if_finite(self.optimizer, refused)
        # As the first of two ranks, whose other adds nothing: the arithmetic of several ranks must not wait either.
        self.statistics.settle(before, refused, range(1), 2, lambda moved: None)
        self.average.update(AveragedTensors.of(self.model), skip=refused)
        self.optimizer.zero_grad()
        return refused

    def look(self):
        moments = [v for values in self.optimizer.state_dict()["state"].values() for v in values.values()]
        models = [t for m in (self.model, self.average.model) for t in m.state_dict().values() if t.is_floating_point()]
        return [t.clone() for t in (*models, *moments)]


def test_a_refused_step_leaves_no_trace():
    step = Step()
    assert step.take().item() == 0
    before = step.look()
    assert step.take(poison=math.inf).item() == 1
    assert all(torch.equal(a, b) for a, b in zip(before, step.look(), strict=True))
    assert step.take().item() == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, step.look(), strict=True))


def test_a_step_never_waits_for_the_device():
    step = Step()
    step.take()  # allocates, tunes and caches
    before = copy.deepcopy(step.model.state_dict())
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.take()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert any(not torch.equal(before[k], v) for k, v in step.model.state_dict().items())
