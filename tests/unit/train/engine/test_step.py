"""What moves along with the network in training, and what does not exist where it was not asked for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from steel.distributed.runtime import Runtime, start
from steel.model.optimizer import WeightAverage
from tests.numerics.one_step import build_training, config_of, step_at
from tests.numerics.quick import quicken
from train.engine.batch_plan import PhasePlan
from train.engine.loop import Loop
from train.engine.step import TrainingState
from train.fit import main

WALKS = (
    *("modules", "named_modules", "children", "named_children", "parameters", "named_parameters"),
    *("buffers", "named_buffers", "train", "state_dict"),
)
"""What goes through all layers of a network."""


def training_of(*, judged_stages: int = 0, **optim: Any) -> TrainingState:
    """Of two phases, without a moving average unless told otherwise."""
    config = config_of(batch_size=6, micro_batch=3, deep_supervision=judged_stages)
    changed = replace(config.optim, **{"ema_decay": 0.0, **optim})
    return build_training(start("no", cpu=True), replace(config, phases=config.phases * 2, optim=changed))


def take_steps(training: TrainingState, first: int, last: int, phase: int = 0) -> None:
    for step in range(first, last):
        step_at(training, step, phase)


def copies(training: TrainingState) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.tensors().items()}


def test_without_an_average_there_is_no_second_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(*arguments: Any) -> None:
        raise AssertionError("an average was made")

    monkeypatch.setattr(WeightAverage, "__init__", copied)
    training = training_of()
    take_steps(training, 0, 1)
    assert training.average is None and training.scored_model(0) is training.model
    assert [name for name in training.tensors() if name.startswith("average")] == []


@pytest.mark.parametrize(
    "optim", [{}, {"ema_decay": 0.9}, {"layer_decay": 0.5}, {"swa": True}, {"judged_stages": 2, "ema_decay": 0.9}]
)
@pytest.mark.parametrize("phase", [0, 1])
def test_a_state_goes_on_bit_for_bit(optim: dict[str, Any], phase: int) -> None:
    """With an average and without one; also where the state holds an average that the run has no use for."""
    training = training_of(**optim)
    take_steps(training, 0, 2, phase)
    tensors = copies(training)
    has_average = training.average is not None
    assert any(name.startswith("average.") for name in tensors) == has_average
    resumed = training_of(**optim)
    resumed.load_tensors(
        tensors if has_average else tensors | {"average.x": torch.ones(1), "average_updates": torch.ones(())}
    )
    take_steps(training, 2, 4, phase)
    take_steps(resumed, 2, 4, phase)
    expected, found = training.tensors(), resumed.tensors()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not found[name].equal(expected[name])] == []


def test_an_equal_average_is_of_the_last_phase_alone() -> None:
    """The mean of weights and running statistics after each of its steps; before it the network itself is scored."""
    training = training_of(swa=True)
    assert training.average is not None
    take_steps(training, 0, 2)
    assert training.scored_model(0) is training.model
    assert training.tensors()["average_updates"].item() == 0
    seen = []
    for step in range(3):
        take_steps(training, step, step + 1, phase=1)
        seen.append({name: tensor.clone() for name, tensor in training.model.state_dict().items()})
    average = training.scored_model(1)
    assert average is training.average.model
    for name, tensor in average.state_dict().items():
        mean = sum(state[name].double() for state in seen) / 3 if tensor.is_floating_point() else seen[-1][name]
        torch.testing.assert_close(tensor.double(), torch.as_tensor(mean).double(), rtol=1e-6, atol=1e-7)


def test_a_moving_average_is_of_all_phases() -> None:
    training = training_of(ema_decay=0.9)
    take_steps(training, 0, 1)
    take_steps(training, 0, 1, phase=1)
    assert training.tensors()["average_updates"].item() == 2
    assert training.scored_model(0) is training.scored_model(1) is not training.model


def test_layers_of_the_decoders_stages_learn_and_are_nobodys_to_ship() -> None:
    """They are in the resumable state, beside the network and its average, whose tensors are those without them."""
    plain, deep = training_of(ema_decay=0.9), training_of(judged_stages=2, ema_decay=0.9)
    before = copies(deep)
    assert [name for name in before if name not in plain.tensors()] == [
        f"stage_heads.convolutions.{stage}.{name}" for stage in (0, 1) for name in ("weight", "bias")
    ]
    take_steps(deep, 0, 1)
    after = deep.tensors()
    assert all((after[name] != before[name]).any() for name in before if name.startswith("stage_heads."))
    assert deep.model.state_dict().keys() == plain.model.state_dict().keys()
    assert deep.scored_model(0).state_dict().keys() == plain.model.state_dict().keys()


def test_what_the_finest_resolution_loses_stays_the_number_that_it_is() -> None:
    """In the first step, where both have the same weights and drop the same features."""
    plain, deep = (step_at(training_of(judged_stages=stages), 0) for stages in (0, 2))
    assert list(plain.losses) == ["segmentation", "classification"]
    assert list(deep.losses) == ["segmentation", "classification", "deep_supervision"]
    assert [deep.losses[head] for head in plain.losses] == list(plain.losses.values())
    assert deep.losses["deep_supervision"] != 0
    torch.testing.assert_close(deep.sample_losses.sum(), torch.stack(list(deep.losses.values())).sum())


def scaled(runtime: Runtime) -> torch.amp.GradScaler:
    """The job's loss scaler, as that of fp16 on a GPU."""
    runtime.accelerator.scaler = scaler = torch.amp.GradScaler("cpu")
    return scaler


def overflow(scaler: torch.amp.GradScaler) -> None:
    """What a step does to the scale whose scaled gradient is beyond fp16."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter])
    scaler.scale(parameter.sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()


def test_each_training_of_a_job_begins_with_the_scale_of_the_first() -> None:
    """A cross-validation's members come one after another, or each in a job of its own."""
    runtime, config = start("no", cpu=True), config_of(batch_size=6, micro_batch=3)
    scaler = scaled(runtime)
    build_training(runtime, config)
    first = scaler.state_dict()
    overflow(scaler)
    assert scaler.get_scale() == first["scale"] / 2
    build_training(runtime, config)
    assert scaler.state_dict() == first == torch.amp.GradScaler("cpu").state_dict()
    scaler.scale(torch.ones(1))
    assert scaler.get_scale() == first["scale"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_a_run_goes_on_in_another_precision(before: bool, after: bool) -> None:
    """From or to fp16, which has a scaler; where the state has no scale of one, it begins with its first."""
    runtime, config = start("no", cpu=True), config_of(batch_size=6, micro_batch=3)
    if before:
        scaled(runtime)
    training = build_training(runtime, config)
    if before:
        assert training.scaler is not None
        training.scaler.load_state_dict(training.scaler.state_dict() | {"scale": 8.0, "_growth_tracker": 3})
    tensors = copies(training)
    runtime = start("no", cpu=True)
    if after:
        scaled(runtime)
    resumed = build_training(runtime, config)
    with torch.no_grad():
        for parameter in resumed.parameters:
            parameter.add_(1)
    resumed.load_tensors(tensors)
    assert all(tensor.equal(tensors[f"model.{name}"]) for name, tensor in resumed.model.state_dict().items())
    if resumed.scaler is not None:
        found = resumed.scaler.state_dict()
        assert (found["scale"], found["_growth_tracker"]) == ((8.0, 3) if before else (2.0**16, 0))


@pytest.fixture
def wrap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[TrainingState], None]]:
    """Wraps a training as accelerate does where there are several ranks; here there is one, of gloo."""

    def wrapped(training: TrainingState) -> None:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        training.wrapped = DistributedDataParallel(
            training.micro_batch_losses, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        monkeypatch.setattr(training.runtime.accelerator, "no_sync", DistributedDataParallel.no_sync)

    yield wrapped
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("freeze_steps", [0, 10])
@pytest.mark.parametrize(
    ("average", "ddp"),
    [({"ema_decay": 0.9}, False), ({"swa": True, "judged_stages": 2}, False), ({"ema_decay": 0.9}, True)],
)
def test_a_step_walks_over_no_modules(
    freeze_steps: int,
    average: dict[str, Any],
    ddp: bool,
    wrap: Callable[[TrainingState], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the first; neither a frozen encoder, a rate that decays over its stages nor DDP changes that."""
    training = training_of(layer_decay=0.5, **average)
    training.freeze_steps = freeze_steps
    if ddp:
        wrap(training)
    take_steps(training, 0, 1, phase=1)
    walked = note_walks(monkeypatch)
    take_steps(training, 1, 3, phase=1)
    assert walked == []


def note_walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on the names of all walks are put there."""
    walked: list[str] = []
    for name in WALKS:
        walk = getattr(nn.Module, name)

        def noting(*args: Any, walk: Any = walk, name: str = name, **kwargs: Any) -> Any:
            walked.append(name)
            return walk(*args, **kwargs)

        monkeypatch.setattr(nn.Module, name, noting)
    return walked


@pytest.mark.usefixtures("fresh_accelerate")
def test_nor_does_the_loop_around_it(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole run, all that is between the last step and the next one but saves and validations."""
    quicken(monkeypatch)
    walked, of_steps = note_walks(monkeypatch), []
    take_step = Loop._take_step

    def noting(loop: Loop, plan: PhasePlan, batches: Any) -> None:
        before, step = len(walked), loop.state.step
        take_step(loop, plan, batches)
        of_steps.append((step, walked[before:]))

    monkeypatch.setattr(Loop, "_take_step", noting)
    options = "--preset smoke --phases.0.epochs 4 --phases.1.epochs 4 --runtime.workers 0 --tracking.tracker none"
    assert main([*options.split(), "--data", str(tiny_shards), "--out", str(tmp_path / "run")]) == 0
    later = [names for step, names in of_steps if step > 0]  # a phase's first step makes its lists
    assert len(later) > 4
    assert later == [[]] * len(later)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("freeze_steps", [0, 10])
def test_a_validation_of_the_network_itself_leaves_no_layer_in_evaluation(freeze_steps: int) -> None:
    """But the frozen encoder."""
    training = training_of()
    training.freeze_steps = freeze_steps
    take_steps(training, 0, 1)
    training.scored_model(0).eval()
    take_steps(training, 1, 2)
    assert all(module.training for module in training.model.decoder.modules())
    assert {module.training for module in training.model.encoder.modules()} == {freeze_steps == 0}
