"""What a step computes does not depend on how it is spread: over ranks, or over micro-batches."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from steel.runtime import Runtime, start
from tests.distributed.launching import ROOT, environment
from tests.numerics.one_step import (
    NUM_CLASSES,
    build_learner,
    config_of,
    gradients_of,
    micro_batches,
    plan_of,
    samples,
    take_step,
)

EXACT = 1e-10
"""What float64 leaves of a gradient: sums of up to 25,000 pixels, each rounded by 2**-53, that partly cancel."""


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of any parameter's gradient, as a share of that gradient's norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / (theirs[name].norm() + 1e-6)) for name in ours)


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


def test_worlds_of_one_to_four_give_the_same_gradients(tmp_path: Path) -> None:
    """With BatchNorm and dropout on, shares of 6, 3, 2 and (unequal) 1 or 2 micro-batches a rank."""
    script = [sys.executable, "tests/numerics/worlds.py", str(tmp_path)]
    done = subprocess.run(script, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    alone, loss = torch.load(tmp_path / "1-0.pt")
    assert sum(float(gradient.norm()) for gradient in alone.values()) > 0.1
    for world in (2, 3, 4):
        for rank in range(world):
            gradients, total = torch.load(tmp_path / f"{world}-{rank}.pt")
            assert total == pytest.approx(loss, rel=EXACT)
            assert distance(gradients, alone) < EXACT, (world, rank)


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
        learner = build_learner(runtime, config)
        for module in learner.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(False)
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
        learner.step(plan_of(config), 0, micro_batches(config, 0, 1))
        found.append(gradients_of(learner))
    assert distance(found[1], found[0]) < EXACT
    assert distance(found[2], found[0]) < EXACT


@pytest.mark.parametrize("where", ["image", "loss"])
def test_a_nonfinite_step_changes_nothing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    config = config_of()
    learner, plan = build_learner(runtime, config), plan_of(config)
    learner.step(plan, 0, micro_batches(config, 0, 1))
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    if where == "image":  # poisons the running statistics of BatchNorm on its way
        monkeypatch.setattr("train.learner.normalise", lambda images, mean, std: images.float() * float("nan"))
    else:
        worse = torch.full((), float("inf"))
        monkeypatch.setattr("train.learner.segmentation_loss", lambda logits, *rest: logits.mean((2, 3)) * worse)
    sums = learner.step(plan, 1, micro_batches(config, 0, 1))
    assert sums.skipped == 1
    after = learner.tensors()
    changed = [name for name in before if not before[name].equal(after[name])]
    # How many batches BatchNorm has seen is a counter that nothing is computed from.
    assert [name for name in changed if "num_batches_tracked" not in name] == []

    monkeypatch.undo()
    healthy = learner.step(plan, 2, micro_batches(config, 0, 1))
    assert healthy.skipped == 0
    assert not before["model.segmentation_head.0.weight"].equal(
        learner.model.state_dict()["segmentation_head.0.weight"]
    )
