"""One training step on a GPU: refused steps leave no trace, and nothing waits for the device."""

import copy
import math
from collections.abc import Iterator

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
from steel.model.passes import intra_op_threads
from tests.gpu.places import PLACES, no_host_waits

EVERY_LOSS = LossConfig(
    {"bce": 1, "dice": 1, "focal": 1, "tversky": 1, "lovasz": 1, "boundary": 1, "classification": 1},
    class_weights=(1, 2),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with intra_op_threads(1):  # see `job_on`
        yield


class Step:
    """A model and all that moves with it."""

    def __init__(self, place: torch.device) -> None:
        torch.manual_seed(0)
        self.place = place
        self.model = UnifiedModel(NetworkConfig("Unet", "resnet18", 2, 1, decoder_channels=(16, 8, 8)))
        self.model = self.model.to(place).to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.model, OptimConfig())
        self.statistics = RunningStatistics(self.model)
        self.average = ExponentialAverage(self.model, 0.9)
        self.images = torch.randint(0, 256, (4, 1, 64, 72), dtype=torch.uint8, device=place)
        self.masks = (torch.rand(4, 2, 64, 72, device=place) < 0.2).float()
        self.valid = torch.ones(4, 1, 64, 72, device=place)

    def take(self, poison: float = 1.0) -> torch.Tensor:
        """A step; a gradient multiplied by `poison` that is not finite must be refused."""
        set_lr(self.optimizer, 1e-3)
        before = self.statistics.take()
        inputs = poison * normalise(self.images, (0.5,), (0.25,)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.place.type, torch.bfloat16):
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

    def look(self) -> list[torch.Tensor]:
        moments = [v for values in self.optimizer.state_dict()["state"].values() for v in values.values()]
        models = [t for m in (self.model, self.average.model) for t in m.state_dict().values() if t.is_floating_point()]
        return [t.clone() for t in (*models, *moments)]


@pytest.mark.parametrize("place", PLACES)
def test_a_refused_step_leaves_no_trace(place: torch.device) -> None:
    step = Step(place)
    assert step.take().item() == 0
    before = step.look()
    assert step.take(poison=math.inf).item() == 1
    assert all(torch.equal(a, b) for a, b in zip(before, step.look(), strict=True))
    assert step.take().item() == 0
    assert not any(torch.equal(a, b) for a, b in zip(before, step.look(), strict=True) if a.any())


@pytest.mark.parametrize("place", PLACES)
def test_a_step_never_waits_for_the_device(place: torch.device) -> None:
    step = Step(place)
    step.take()  # allocates, tunes and caches
    before = copy.deepcopy(step.model.state_dict())
    with no_host_waits(place):
        step.take()
    assert not any(torch.equal(before[k], v) for k, v in step.model.state_dict().items() if v.is_floating_point())
