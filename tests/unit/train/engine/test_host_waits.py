"""No step waits for the device: the real step and the hand-over of its figures, on a GPU that is not there."""

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from steel.config import LossConfig, NetworkConfig
from steel.distributed.runtime import Runtime
from steel.distributed.signals import StopSignals
from steel.loading.train_loader import MicroBatch
from steel.model.host_copy import HostCopies
from steel.model.losses import LOSS_TERMS
from steel.model.network import UnifiedModel, scale_and_shift
from tests.fake_gpu import GPU, HostWaits, accelerator_of, backward, fake_gpu
from tests.numerics.one_step import NUM_CLASSES, config_of, plan_of
from train import fit
from train.engine.batch_plan import PhasePlan
from train.engine.device_batches import device_batches
from train.engine.micro_batch_losses import MicroBatchLosses
from train.engine.state_writer import StateWriter
from train.engine.step import TrainingState
from train.engine.step_metrics import StepMetrics

LR = 1e-3
MICRO_BATCH = 3
PRECISIONS = ("no", "bf16", "fp16")

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # to tell copies apart


@dataclass(frozen=True)
class OnGPU(Runtime):
    """A rank that computes on the GPU. The others are not there: what is summed over all stays what it is, and
    gradients do so without DDP."""

    number: int = 0
    ranks: int = 1

    @property
    def rank(self) -> int:
        return self.number

    @property
    def world(self) -> int:
        return self.ranks

    @property
    def device(self) -> torch.device:
        return GPU

    def all_reduce(self, tensor: torch.Tensor) -> None:
        assert tensor.device == GPU  # by NCCL, for which no host waits

    def broadcast_tensors(self, module: torch.nn.Module) -> None:
        pass

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)


@pytest.fixture(scope="module")
def made() -> UnifiedModel:
    """On the CPU: a network tries itself out when it is made."""
    return UnifiedModel(NetworkConfig("Unet", "resnet18", NUM_CLASSES, 1, decoder_channels=(16, 8, 8), dropout=0.1))


@pytest.fixture(scope="module")
def made_small() -> UnifiedModel:
    return UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", NUM_CLASSES, 1, decoder_channels=(8, 8), dropout=0.1))


@pytest.fixture
def network(made: UnifiedModel) -> UnifiedModel:
    """A copy to spoil."""
    return copy.deepcopy(made)


@pytest.fixture
def small_network(made_small: UnifiedModel) -> UnifiedModel:
    """Another, of fewer layers."""
    return copy.deepcopy(made_small)


@pytest.fixture
def gpu(network: UnifiedModel, small_network: UnifiedModel) -> Iterator[HostWaits]:
    """The networks are made before it."""
    scale_and_shift.cache_clear()
    with fake_gpu() as noted:
        yield noted
    scale_and_shift.cache_clear()  # of tensors without values


Train = Callable[..., TrainingState]


@pytest.fixture
def train(gpu: HostWaits) -> Iterator[Train]:
    """Gives the training of a network on the GPU, after all that is moved there once: with which precision, by which
    of how many ranks, in steps of how many micro-batches; `optim` as the configuration has it."""

    def begin(
        network: UnifiedModel,
        precision: str = "no",
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 2,
        freeze_steps: int = 0,
        judged_stages: int = 0,
        **optim: Any,
    ) -> TrainingState:
        config = config_of(MICRO_BATCH * micro_batches, MICRO_BATCH, deep_supervision=judged_stages)
        config = replace(config, optim=replace(config.optim, **optim))
        runtime = OnGPU(stack.enter_context(accelerator_of(precision)), number=rank, ranks=world)
        training = TrainingState(runtime, config, network, mean=(0.5,), std=(0.2,), freeze_steps=freeze_steps)
        gpu.waits.clear()
        gpu.operations.clear()
        return training

    with contextlib.ExitStack() as stack:
        yield begin


def plan_for(training: TrainingState) -> PhasePlan:
    return plan_of(training.config, training.runtime.rank, training.runtime.world)


def micro_batches(plan: PhasePlan, steps: int) -> Generator[MicroBatch, None, None]:
    """The rank's, as the loader has them, in pinned memory."""
    for index in [*plan.share] * steps:
        images = torch.empty(MICRO_BATCH, 1, 32, 64, dtype=torch.uint8, pin_memory=True)
        targets = torch.empty(MICRO_BATCH, 32, 64, dtype=torch.uint8, pin_memory=True)
        pairs = torch.empty(3, dtype=torch.int64, pin_memory=True)
        rows = torch.arange(MICRO_BATCH)
        yield MicroBatch(images, targets, rows, rows, index, 0, pairs)


def take_steps(training: TrainingState, noted: HostWaits, steps: int) -> list[list[str]]:
    """What became of events in each of some steps, and in the flush after the last one."""
    metrics = StepMetrics(training.runtime, StopSignals(), fp16=training.scaler is not None)
    plan, found = plan_for(training), []
    batches = device_batches(micro_batches(plan, steps), GPU)
    for step in range(steps):
        noted.events.clear()
        metrics.push(plan, step, LR, training.step(plan, step, LR, batches))
        found.append(list(noted.events))
    noted.events.clear()
    metrics.flush()
    return [*found, list(noted.events)]


@pytest.mark.parametrize("judged_stages", [0, 2])
def test_no_term_of_the_loss_waits_for_the_device(
    network: UnifiedModel, gpu: HostWaits, train: Train, judged_stages: int
) -> None:
    training = train(network, judged_stages=judged_stages)
    loss = LossConfig(dict.fromkeys(LOSS_TERMS, 0.5), absent=0.3, class_weights=(1.0, 2.0, 3.0))
    phase = replace(training.config.phases[0], loss=loss)
    plan = replace(plan_of(training.config), phase=phase)
    training.step(plan, 0, LR, device_batches(micro_batches(plan, 1), GPU))
    assert gpu.waits == []
    assert "max_pool2d_with_indices" in gpu.operations
    # That of the encoder, in each of two micro-batches: no loss goes back through a pooling.
    assert gpu.operations.count("max_pool2d_with_indices_backward") == 2


def test_no_step_waits_for_the_device(network: UnifiedModel, gpu: HostWaits, train: Train) -> None:
    """The figures of a step are waited for when the next one has been launched, and by their own event alone.

    The encoder is frozen in the first step.
    """
    training = train(network, freeze_steps=1)
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


RECIPES: dict[str, dict[str, Any]] = {
    "one micro-batch": {"micro_batches": 1},
    "several micro-batches": {"micro_batches": 2},
    "one micro-batch of three, the others another rank's": {"micro_batches": 3, "rank": 0, "world": 2},
    "two micro-batches of three, the other another rank's": {"micro_batches": 3, "rank": 1, "world": 2},
    "no average": {"ema_decay": 0.0},
    "an equal average": {"ema_decay": 0.0, "swa": True},
}
"""With a moving average unless they say otherwise."""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_no_step_of_any_recipe_waits_for_the_device(
    recipe: dict[str, Any], precision: str, small_network: UnifiedModel, gpu: HostWaits, train: Train
) -> None:
    """Gradients are clipped. In fp16 the scaler's check for what is not finite, its scale and the step's being taken
    or not are the device's own business, too; torch's `GradScaler.step` would ask for the check's result."""
    computed_in = set()
    small_network.segmentation_head.register_forward_hook(lambda head, given, logits: computed_in.add(logits.dtype))
    training = train(small_network, precision, **{"clip_norm": 1.0, **recipe})
    *steps, flushed = take_steps(training, gpu, 2)
    assert gpu.waits == []
    waits = [[event for event in events if event.startswith("wait for")] for events in (*steps, flushed)]
    assert [len(events) for events in waits] == [0, 1, 1]  # for the figures of the step before
    assert computed_in == {{"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    done = {"linalg_vector_norm", "_fused_adamw_"}  # clipping, and the step
    done |= {"_amp_foreach_non_finite_check_and_unscale_", "_amp_update_scale_"} if precision == "fp16" else set()
    done |= set() if recipe.get("ema_decay") == 0 else {"_foreach_sub"}
    assert done <= set(gpu.operations)


def test_a_save_holds_up_the_device_and_not_the_host(network: UnifiedModel, gpu: HostWaits, train: Train) -> None:
    """The side stream begins when the step is done, and the next step when all is copied."""
    training = train(network)
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
        assert gpu.waited_on[-1] == GPU  # and not on the first one, as the writer's thread would
        assert buffers.keys() == training.tensors().keys()
        assert {buffer.device.type for buffer in buffers.values()} == {"cpu"}
        if first == 5:
            memory = {name: id(buffer) for name, buffer in buffers.items()}
    assert {name: id(buffer) for name, buffer in buffers.items()} == memory


@contextlib.contextmanager
def writer_of(training: TrainingState) -> Iterator[StateWriter]:
    """As a run opens it."""
    folder = SimpleNamespace(states=Path("nowhere"))
    logger = SimpleNamespace(wait_until_written=lambda: None)
    with contextlib.ExitStack() as closing:
        writer = fit._open_writer(training.config, training, folder, logger, closing)  # type: ignore[arg-type]
        assert writer is not None
        yield writer


@pytest.mark.parametrize(("minutes", "due"), [(10, [False, True]), (0.5, [True, True]), (0, [False, False])])
def test_states_are_due_by_minutes(
    small_network: UnifiedModel, train: Train, monkeypatch: pytest.MonkeyPatch, minutes: float, due: list[bool]
) -> None:
    """After 599 and 601 seconds; 0 minutes are never."""
    training = train(small_network)
    assert training.config.runtime.save_minutes == 10
    training.config = replace(training.config, runtime=replace(training.config.runtime, save_minutes=minutes))
    now = [1000.0]
    monkeypatch.setattr("train.engine.state_writer.time.monotonic", lambda: now[0])
    with writer_of(training) as writer:
        for seconds, expected in zip((599, 601), due, strict=True):
            now[0] = 1000.0 + seconds
            assert writer.is_due == expected


def test_the_memory_of_all_saves_is_made_before_the_first_step(
    network: UnifiedModel, gpu: HostWaits, train: Train
) -> None:
    """In the shapes and the order in memory of what AdamW makes later; and for the best weights."""
    training = train(network)
    with writer_of(training) as writer:
        copies, best = writer._copies, writer._best_copies
    memory = {name: id(buffer) for name, buffer in copies._buffers.items()}
    assert best._buffers.keys() == training.model.state_dict().keys()
    take_steps(training, gpu, 1)
    assert memory.keys() == training.tensors().keys() and any(name.endswith("exp_avg") for name in memory)
    copies.begin(training.tensors())
    buffers, _ = copies.wait()
    assert {name: id(buffer) for name, buffer in buffers.items()} == memory


def test_what_is_reserved_and_not_saved_yet_stays_reserved() -> None:
    """The moments of a frozen encoder, say."""
    first, second = torch.zeros(2), torch.ones(3)
    copies = HostCopies()
    copies.reserve({"first": first, "second": second})
    memory = id(copies._buffers["second"])
    copies.begin({"first": first})
    assert list(copies.wait()[0]) == ["first"]
    copies.begin({"first": first, "second": second})
    assert id(copies.wait()[0]["second"]) == memory and copies.wait()[0]["second"].equal(second)


def test_a_save_in_fp16_reads_two_numbers_of_the_scaler(
    small_network: UnifiedModel, gpu: HostWaits, train: Train
) -> None:
    """Its scale, and for how many steps that has been good: torch tells them as plain numbers alone. The loop has
    waited for the step's figures by then, so that the device has nothing to do and answers at once."""
    training = train(small_network, "fp16")
    take_steps(training, gpu, 1)
    copies = HostCopies()
    for _ in range(2):
        copies.begin(training.tensors())
    assert gpu.waits == ["_local_scalar_dense"] * 4
    assert {"scaler.scale", "scaler._growth_tracker"} <= training.tensors().keys()


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
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(wait, monkeypatch)
    training = train(network)
    plan = plan_for(training)
    training.step(plan, 0, LR, device_batches(micro_batches(plan, 1), GPU))
    assert gpu.waits == [name] * 2  # once a micro-batch


def pageable() -> torch.Tensor:
    return torch.empty(2)


def skip_if_not_finite(x: torch.Tensor) -> None:
    """A step in fp16 as torch has it, of an optimizer that is not fused."""
    scaler, parameter = torch.amp.GradScaler("cuda"), torch.nn.Parameter(x)
    scaler.scale(parameter.sum())
    parameter.grad = x.clone()
    scaler.step(torch.optim.SGD([parameter], foreach=True))


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
        ("copy cpu to cuda", lambda x: x[torch.arange(2)]),
        ("_unique2", lambda x: x.unique()),
        ("_local_scalar_dense", lambda x: skip_if_not_finite(x)),
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
    x[torch.arange(2, device=GPU)]
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
