"""What moves along with the network in training, and what does not exist where it was not asked for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from steel.distributed.runtime import start
from steel.model.optimizer import ExponentialAverage
from tests.numerics.one_step import build_training, config_of, step_at
from train.engine.step import TrainingState


def training_of(decay: float, layer_decay: float = 1.0) -> TrainingState:
    config = config_of(batch_size=6, micro_batch=3)
    optim = replace(config.optim, ema_decay=decay, layer_decay=layer_decay)
    return build_training(start("no", cpu=True), replace(config, optim=optim))


def take_steps(training: TrainingState, first: int, last: int) -> None:
    for step in range(first, last):
        step_at(training, step)


def test_without_a_moving_average_there_is_no_second_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(*arguments: Any) -> None:
        raise AssertionError("a moving average was made")

    monkeypatch.setattr(ExponentialAverage, "__init__", copied)
    training = training_of(0.0)
    take_steps(training, 0, 1)
    assert training.average is None and training.scored_model is training.model
    assert [name for name in training.tensors() if name.startswith("average")] == []


@pytest.mark.parametrize(("decay", "layer_decay"), [(0.0, 1.0), (0.9, 1.0), (0.0, 0.5)])
def test_a_state_goes_on_bit_for_bit(decay: float, layer_decay: float) -> None:
    """With a moving average and without one; also where the state holds an average that the run has no use for."""
    training = training_of(decay, layer_decay)
    take_steps(training, 0, 2)
    tensors = {name: tensor.clone() for name, tensor in training.tensors().items()}
    assert any(name.startswith("average.") for name in tensors) == (decay > 0)
    resumed = training_of(decay, layer_decay)
    resumed.load_tensors(
        tensors if decay else tensors | {"average.x": torch.ones(1), "average_updates": torch.ones(())}
    )
    take_steps(training, 2, 4)
    take_steps(resumed, 2, 4)
    expected, found = training.tensors(), resumed.tensors()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not found[name].equal(expected[name])] == []


@pytest.mark.parametrize("freeze_steps", [0, 10])
def test_a_step_walks_over_no_modules(freeze_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first; neither a frozen encoder nor a rate that decays over its stages changes anything about that."""
    training = training_of(0.9, layer_decay=0.5)
    training.freeze_steps = freeze_steps
    take_steps(training, 0, 1)
    walked: list[str] = []
    for name in (*("modules", "named_modules", "children", "parameters", "named_parameters"), *("buffers", "train")):
        walk = getattr(nn.Module, name)

        def noting(*args: Any, walk: Any = walk, name: str = name, **kwargs: Any) -> Any:
            walked.append(name)
            return walk(*args, **kwargs)

        monkeypatch.setattr(nn.Module, name, noting)
    take_steps(training, 1, 3)
    assert walked == []


@pytest.mark.parametrize("freeze_steps", [0, 10])
def test_a_validation_of_the_network_itself_leaves_no_layer_in_evaluation(freeze_steps: int) -> None:
    """But the frozen encoder."""
    training = training_of(0.0)
    training.freeze_steps = freeze_steps
    take_steps(training, 0, 1)
    training.scored_model.eval()
    take_steps(training, 1, 2)
    assert all(module.training for module in training.model.decoder.modules())
    assert {module.training for module in training.model.encoder.modules()} == {freeze_steps == 0}
