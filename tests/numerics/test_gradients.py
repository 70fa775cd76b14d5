"""What a step computes does not depend on how it is spread over micro-batches; `test_worlds` is about ranks."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from steel.distributed.runtime import Runtime, start
from steel.model.losses import LOSS_TERMS, LossTerm
from tests.numerics.one_step import (
    EXACT,
    NUM_CLASSES,
    build_training,
    config_of,
    distance,
    gradients_of,
    samples,
    step_at,
    take_step,
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are too small for more
    yield start("no", cpu=True)
    torch.set_num_threads(threads)


def test_the_samples_are_ragged() -> None:
    _, targets = samples(12)
    present = [[bool((image >> k & 1).any()) for k in range(NUM_CLASSES)] for image in targets]
    assert [sum(column) for column in zip(*present, strict=True)] == [6, 1, 0]
    assert (targets[11] == 1 << NUM_CLASSES).all() and (targets[3] == 1 << NUM_CLASSES).any()


def test_dropout_and_batch_norm_were_on(runtime: Runtime) -> None:
    """Else the comparison of worlds would say little."""
    gradients, _ = take_step(runtime, config_of())
    without_dropout, _ = take_step(runtime, config_of(dropout=0.0))
    larger_batches, _ = take_step(runtime, config_of(micro_batch=4))
    assert distance(gradients, without_dropout) > 1e-2
    assert distance(gradients, larger_batches) > 1e-2


def test_the_micro_batch_size_does_not_matter_with_batch_norm_frozen(runtime: Runtime) -> None:
    found = []
    for micro_batch in (1, 3, 12):
        config = config_of(micro_batch=micro_batch, dropout=0.0)
        training = build_training(runtime, config)
        for module in training.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(False)
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
        step_at(training, 0)
        found.append(gradients_of(training))
    assert distance(found[1], found[0]) < EXACT
    assert distance(found[2], found[0]) < EXACT


@pytest.mark.parametrize("where", ["image", "loss"])
def test_a_nonfinite_step_changes_nothing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    config = config_of()
    training = build_training(runtime, config)
    step_at(training, 0)
    before = {name: tensor.clone() for name, tensor in training.tensors().items()}
    if where == "image":  # poisons the running statistics of BatchNorm on its way
        scaling = "train.engine.micro_batch_losses.scale_pixels"
        monkeypatch.setattr(scaling, lambda images, scale, shift: images.float() * float("nan"))
    else:
        worse = torch.full((), float("inf"))
        term = LossTerm("endless", lambda logits, *rest: logits.mean((2, 3)) * worse)
        monkeypatch.setitem(LOSS_TERMS, "bce", term)
    sums = step_at(training, 1)
    assert sums.skipped == 1
    after = training.tensors()
    assert [name for name in before if not before[name].equal(after[name])] == []

    monkeypatch.undo()
    healthy = step_at(training, 2)
    assert healthy.skipped == 0
    assert not before["model.segmentation_head.0.weight"].equal(
        training.model.state_dict()["segmentation_head.0.weight"]
    )
