"""No step waits for the device: the real step and the hand-over of its figures, on a GPU that is not there."""

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from steel.config import LossConfig, NetworkConfig
from steel.distributed.runtime import Runtime, start
from steel.distributed.signals import StopSignals
from steel.loading.train_loader import MicroBatch
from steel.model.host_copy import HostCopies
from steel.model.losses import LOSS_TERMS
from steel.model.network import UnifiedModel, scale_and_shift
from tests.fake_gpu import GPU, HostWaits, backward, fake_gpu
from tests.numerics.one_step import NUM_CLASSES, config_of, plan_of
from train.engine.device_batches import device_batches
from train.engine.micro_batch_losses import MicroBatchLosses
from train.engine.step import TrainingState
from train.engine.step_metrics import StepMetrics

LR = 1e-3


class OnGPU(Runtime):
    """A rank that computes on the GPU."""

    @property
    def device(self) -> torch.device:
        return GPU


@pytest.fixture(scope="module")
def made() -> UnifiedModel:
    """On the CPU: a network tries itself out when it is made."""
    return UnifiedModel(NetworkConfig("Unet", "resnet18", NUM_CLASSES, 1, decoder_channels=(16, 8, 8), dropout=0.1))


@pytest.fixture
def network(made: UnifiedModel) -> UnifiedModel:
    """A copy to spoil."""
    return copy.deepcopy(made)


@pytest.fixture
def gpu(network: UnifiedModel) -> Iterator[HostWaits]:
    """`network` is made before it."""
    scale_and_shift.cache_clear()
    with fake_gpu() as noted:
        yield noted
    scale_and_shift.cache_clear()  # of tensors without values


def training_on_gpu(
    network: UnifiedModel, gpu: HostWaits, freeze_steps: int = 0, judged_stages: int = 0
) -> TrainingState:
    """After all that is moved to the GPU once."""
    runtime = OnGPU(start("no", cpu=True).accelerator)
    config = config_of(batch_size=6, micro_batch=3, deep_supervision=judged_stages)
    training = TrainingState(runtime, config, network, mean=(0.5,), std=(0.2,), freeze_steps=freeze_steps)
    gpu.waits.clear()
    gpu.operations.clear()
    return training


def micro_batches(steps: int) -> Generator[MicroBatch, None, None]:
    """As the loader has them, in pinned memory."""
    for index in [0, 1] * steps:
        images = torch.empty(3, 1, 32, 64, dtype=torch.uint8, pin_memory=True)
        targets = torch.empty(3, 32, 64, dtype=torch.uint8, pin_memory=True)
        pairs = torch.empty(3, dtype=torch.int64, pin_memory=True)
        yield MicroBatch(images, targets, torch.arange(3), torch.arange(3), index, 0, pairs)


def take_steps(training: TrainingState, noted: HostWaits, steps: int) -> list[list[str]]:
    """What became of events in each of some steps, and in the flush after the last one."""
    metrics = StepMetrics(training.runtime, StopSignals(), fp16=False)
    plan, found = plan_of(training.config), []
    batches = device_batches(micro_batches(steps), GPU)
    for step in range(steps):
        noted.events.clear()
        metrics.push(plan, step, LR, training.step(plan, step, LR, batches))
        found.append(list(noted.events))
    noted.events.clear()
    metrics.flush()
    return [*found, list(noted.events)]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # by deepcopy, to tell copies apart
@pytest.mark.parametrize("judged_stages", [0, 2])
def test_no_term_of_the_loss_waits_for_the_device(network: UnifiedModel, gpu: HostWaits, judged_stages: int) -> None:
    training = training_on_gpu(network, gpu, judged_stages=judged_stages)
    loss = LossConfig(dict.fromkeys(LOSS_TERMS, 0.5), absent=0.3, class_weights=(1.0, 2.0, 3.0))
    phase = replace(training.config.phases[0], loss=loss)
    plan = replace(plan_of(training.config), phase=phase)
    training.step(plan, 0, LR, device_batches(micro_batches(1), GPU))
    assert gpu.waits == []
    assert "max_pool2d_with_indices" in gpu.operations
    # That of the encoder, in each of two micro-batches: no loss goes back through a pooling.
    assert gpu.operations.count("max_pool2d_with_indices_backward") == 2


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # by deepcopy, to tell copies apart
def test_no_step_waits_for_the_device(network: UnifiedModel, gpu: HostWaits) -> None:
    """The figures of a step are waited for when the next one has been launched, and by their own event alone.

    The encoder is frozen in the first step.
    """
    training = training_on_gpu(network, gpu, freeze_steps=1)
    *steps, flushed = take_steps(training, gpu, 2)
    assert gpu.waits == []
    assert {"convolution_backward", "native_batch_norm_backward", "_fused_adamw_"} <= set(gpu.operations)
    assert {"sort", "index_copy"} <= set(gpu.operations)  # the Lovász loss, of the pairs that are present
    # A micro-batch records its arrival, which is waited for when the next one has recorded its own; a step records its
    # end, then the arrival of its figures; record 0 is of the start.
    use = ["stream uses a torch.uint8", "stream uses a torch.uint8", "stream uses a torch.int64"]
    assert steps == [
        [
            *("record 1", "record 2", "stream waits for 1", *use),
            *("record 3", "stream waits for 2", *use),
            *("record 4", "record 5"),
        ],
        [
            *("record 6", "stream waits for 3", *use),
            *("stream waits for 6", *use),
            *("record 7", "record 8", "wait for 5"),
        ],
    ]
    assert flushed == ["wait for 8"]


def test_a_save_holds_up_the_device_and_not_the_host(network: UnifiedModel, gpu: HostWaits) -> None:
    """The side stream begins when the step is done, and the next step when all is copied."""
    training = training_on_gpu(network, gpu)
    take_steps(training, gpu, 1)
    copies = HostCopies()
    for first in (5, 7):  # the second save uses the memory of the first
        gpu.events.clear()
        copies.begin(training.tensors())
        assert gpu.waits == []
        waits = [
            "side stream waits for stream",
            f"record {first}",
            f"record {first + 1}",
            f"stream waits for {first + 1}",
        ]
        assert gpu.events == waits
        buffers, _ = copies.wait()
        assert gpu.events == [*waits, f"wait for {first + 1}"]
        assert buffers.keys() == training.tensors().keys()
        assert {buffer.device.type for buffer in buffers.values()} == {"cpu"}
        if first == 5:
            memory = {name: id(buffer) for name, buffer in buffers.items()}
    assert {name: id(buffer) for name, buffer in buffers.items()} == memory


def put(wait: Callable[[torch.Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the step wait for its losses."""
    compute = MicroBatchLosses.of

    def waiting(self: MicroBatchLosses, *args: Any) -> dict[str, torch.Tensor]:
        losses = compute(self, *args)
        wait(losses["segmentation"].detach())
        return losses

    monkeypatch.setattr(MicroBatchLosses, "of", waiting)


@pytest.mark.parametrize(
    ("name", "wait"),
    [("_local_scalar_dense", lambda losses: losses[0, 0].item()), ("cuda", lambda losses: torch.cuda.synchronize())],
)
def test_a_wait_in_a_step_is_found(
    name: str,
    wait: Callable[[torch.Tensor], object],
    network: UnifiedModel,
    gpu: HostWaits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(wait, monkeypatch)
    training = training_on_gpu(network, gpu)
    training.step(plan_of(training.config), 0, LR, device_batches(micro_batches(1), GPU))
    assert gpu.waits == [name] * 2  # once a micro-batch


def pageable() -> torch.Tensor:
    return torch.empty(2)


@pytest.mark.parametrize(
    ("name", "wait"),
    [
        ("_local_scalar_dense", lambda x: x.sum().tolist()),
        ("_local_scalar_dense", lambda x: bool(x.sum() > 0)),
        ("copy cuda to cpu", lambda x: pageable().copy_(x, non_blocking=True)),
        ("copy cuda to cpu", lambda x: torch.empty(2, pin_memory=True).copy_(x)),
        ("copy cpu to cuda", lambda x: pageable().to(x.device, non_blocking=True)),
        ("copy cpu to cuda", lambda x: torch.tensor([1.0, 2.0], device=x.device)),
        ("index_put_", lambda x: x.index_put_((x > 0,), torch.ones(1, device=GPU))),
        ("nonzero", lambda x: x.nonzero()),
        ("index", lambda x: x[x > 0]),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("_unique2", lambda x: x.unique()),
    ],
)
def test_what_waits_is_known(name: str, wait: Callable[[torch.Tensor], object], gpu: HostWaits) -> None:
    with contextlib.suppress(DynamicOutputShapeException):  # a fake tensor cannot say how many there are
        wait(torch.zeros(2, device=GPU))
    assert gpu.waits == [name]


def test_what_does_not_wait_is_not_noted(gpu: HostWaits) -> None:
    x = torch.zeros(2, device=GPU)
    torch.empty(2, pin_memory=True).copy_(x, non_blocking=True)
    torch.empty(2, pin_memory=True).view(1, 2).to(x.device, non_blocking=True)
    torch.where(x > 0, x, torch.full((), 2.0, device=GPU))
    x.index_select(0, torch.arange(2, device=GPU))
    torch.zeros(2).tolist()
    assert gpu.waits == []


def test_the_backward_pass_is_that_of_torch(network: UnifiedModel) -> None:
    images, found = torch.rand(2, 1, 32, 64, dtype=torch.float64), []
    for run in (backward, torch.Tensor.backward):
        model = copy.deepcopy(network).double().eval()
        run(sum(out.square().sum() for out in model(images).values()))
        found.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
