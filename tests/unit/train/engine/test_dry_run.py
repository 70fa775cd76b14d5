"""What phases need is tried before the first step, without a trace; what does not go is told in the user's words."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from steel.config import Config, NetworkConfig
from steel.distributed.runtime import Runtime, seed_everything, start
from steel.errors import SharedError
from steel.model.network import UnifiedModel
from tests.numerics.one_step import build_training, config_of, plan_of, step_at
from train.engine.batch_plan import PhasePlan
from train.engine.dry_run import try_phases
from train.engine.micro_batch_losses import MicroBatchLosses
from train.engine.step import TrainingState


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start("no", cpu=True)
    torch.set_num_threads(threads)


@pytest.fixture
def training(runtime: Runtime) -> TrainingState:
    return build_training(runtime, config_of())


def plans_of(config: Config, *changes: dict[str, Any]) -> list[PhasePlan]:
    """A plan for each set of changes to the configuration's phase."""
    plan = plan_of(config)
    return [
        replace(plan, number=number, phase=replace(plan.phase, **change), first_global_step=number * plan.steps)
        for number, change in enumerate(changes)
    ]


def look(training: TrainingState) -> list[torch.Tensor]:
    """Every tensor of the training state, the state of torch's generator, and which modules train."""
    modes = torch.tensor([module.training for module in training.model.modules()])
    return [tensor.clone() for tensor in training.tensors().values()] + [torch.get_rng_state(), modes]


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_touched(runtime: Runtime, training: TrainingState, steps: int, frozen: bool) -> None:
    """Before the first step and after one: no bit of weights, moments, average, statistics, gradients, generators."""
    training.freeze_steps = 1000 if frozen else 0
    config = training.config
    for step in range(steps):
        step_at(training, step)
    before = look(training)
    try_phases(runtime, training, plans_of(config, {}, {"micro_batch": 3}), [(32, 64), (48, 32)], 1)
    assert all(a.equal(b) for a, b in zip(look(training), before, strict=True))
    assert all(parameter.grad is None for parameter in training.model.parameters())

    untried = build_training(runtime, config)
    untried.freeze_steps = training.freeze_steps
    for step in range(steps + 1):
        step_at(untried, step)
    step_at(training, steps)
    tried, expected = training.tensors(), untried.tensors()
    assert [name for name in expected if not tried[name].equal(expected[name])] == []


def test_each_demand_is_tried_once(runtime: Runtime, training: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    compute = MicroBatchLosses.of

    def noting(self: MicroBatchLosses, network: Any, images: torch.Tensor, targets: Any, loss: Any, *rest: Any) -> Any:
        seen.append((tuple(images.shape), network.training, network.encoder.training, loss.weights.get("lovasz")))
        return compute(self, network, images, targets, loss, *rest)

    monkeypatch.setattr(MicroBatchLosses, "of", noting)
    training.freeze_steps = 4  # the first phase's steps, all of them
    loss = training.config.phases[0].loss
    other_loss = replace(loss, weights={**loss.weights, "lovasz": 0.0})
    plans = plans_of(training.config, {}, {}, {"lr": 1.0}, {"loss": other_loss}, {"micro_batch": 4})
    try_phases(runtime, training, plans, [(32, 64)] * 4 + [(48, 32)], 1)
    assert seen == [
        ((2, 1, 32, 64), True, False, 0.3),
        ((2, 1, 32, 64), True, True, 0.3),
        ((2, 1, 32, 64), True, True, None),
        ((4, 1, 48, 32), True, True, 0.3),
    ]


def problem(runtime: Runtime, training: TrainingState, plans: list[PhasePlan], crops: list[tuple[int, int]]) -> str:
    before = look(training)
    with pytest.raises(SharedError) as raised:
        try_phases(runtime, training, plans, crops, 1)
    assert all(a.equal(b) for a, b in zip(look(training), before, strict=True)), "touched although it failed"
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_one_value_a_channel(runtime: Runtime) -> None:
    config = config_of()
    seed_everything(0)
    model = UnifiedModel(NetworkConfig("DeepLabV3Plus", "tu-test_resnet", 3, 1))
    training = TrainingState(runtime, config, model, mean=(0.5,), std=(0.2,), freeze_steps=0)
    plans = plans_of(config, {}, {"micro_batch": 1})
    assert problem(runtime, training, plans, [(32, 64)] * 2) == (
        f"phase {plans[1].phase.name}: phases.1.micro-batch 1 leaves a BatchNorm layer of DeepLabV3Plus with "
        "tu-test_resnet one value per channel to normalise; use 2 or more"
    )
    try_phases(runtime, training, plans[:1], [(32, 64)], 1)


def test_out_of_memory(runtime: Runtime, training: TrainingState) -> None:
    """No machine has 10**14 bytes."""
    said = problem(runtime, training, plans_of(training.config, {}, {}), [(32, 64), (10**7, 10**7)])
    assert said.startswith(f"phase {training.config.phases[0].name}: out of memory (")
    assert "allocate" in said
    assert said.endswith("with phases.1.micro-batch 2 of 10000000x10000000; a smaller phases.1.crop needs less")


def test_sizes_that_do_not_go_together(runtime: Runtime, training: TrainingState) -> None:
    """Made up: the networks that can be built take any size."""
    training.model.segmentation_head.append(torch.nn.Conv2d(3, 3, 3, padding=(-2, -30)))
    said = problem(runtime, training, plans_of(training.config, {}), [(32, 64)])
    assert "Unet with resnet18 fails on phases.0.micro-batch 2 of 32x64 (" in said
    assert said.endswith("; choose another crop or network")


@pytest.mark.parametrize("twice", [True, False])
def test_what_would_depend_on_the_number_of_processes(runtime: Runtime, training: TrainingState, twice: bool) -> None:
    head = training.model.segmentation_head
    if twice:
        layer = training.model.encoder.bn1
        layer.register_forward_hook(lambda module, inputs, output: torch.nn.BatchNorm2d.forward(module, output))
        name = "a BatchNorm layer that an image passes several times"
    else:
        head.register_buffer("seen", torch.zeros(()))
        head.register_forward_hook(lambda module, inputs, output: module.seen.add_(1) and None)
        name = "segmentation_head.seen"
    said = problem(runtime, training, plans_of(training.config, {}), [(32, 64)])
    assert said.startswith(f"model: {name} changes in training in a way that depends on the number of processes")


def test_every_rank_hears_of_one_ranks_problem(training: TrainingState) -> None:
    class OneOfTwo:
        device = torch.device("cpu")

        def __init__(self, other: str | None) -> None:
            self.other = other

        def all_gather(self, value: str | None) -> list[str | None]:
            return [value, self.other]

    plans = plans_of(training.config, {})
    try_phases(OneOfTwo(None), training, plans, [(32, 64)], 1)  # type: ignore[arg-type]
    with pytest.raises(SharedError, match=r"^rank 1: phase crops: out of memory$"):
        try_phases(OneOfTwo("phase crops: out of memory"), training, plans, [(32, 64)], 1)  # type: ignore[arg-type]
