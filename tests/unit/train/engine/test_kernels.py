"""A step, and what is tried before the first one, takes the kernels that the run asks for; nothing else does."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from steel.distributed.runtime import Runtime, start
from tests.numerics.one_step import HEIGHT, NUM_CLASSES, WIDTH, build_training, config_of, plan_of
from train.engine.dry_run import untouched
from train.engine.made_up_batch import made_up_batch

Flags = tuple[bool, bool, bool]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start("no", cpu=True)
    torch.set_num_threads(threads)


def flags() -> Flags:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("search", "tf32"), [(False, True), (True, False)])
def test_a_step_takes_the_kernels_of_the_run(search: bool, tf32: bool, runtime: Runtime) -> None:
    config = config_of()
    config = replace(config, runtime=replace(config.runtime, cudnn_benchmark=search, tf32=tf32))
    training, plan, before, seen = build_training(runtime, config), plan_of(config), flags(), list[Flags]()
    training.model.register_forward_hook(lambda *_: seen.append(flags()))
    next(training.model.parameters()).register_hook(lambda gradient: seen.append(flags()))
    batches = (
        made_up_batch(1, NUM_CLASSES, plan.phase.micro_batch, (HEIGHT, WIDTH), pin_memory=False) for _ in range(9)
    )
    training.step(plan, 0, 1e-3, batches)
    assert len(seen) >= 2  # there and back
    assert set(seen) == {(search, tf32, tf32)}
    assert flags() == before
    with untouched(training):
        assert flags() == (search, tf32, tf32)
    assert flags() == before


def test_an_error_in_a_step_leaves_the_kernels_as_they_were(runtime: Runtime) -> None:
    config = config_of()
    config = replace(config, runtime=replace(config.runtime, cudnn_benchmark=True))
    training, before = build_training(runtime, config), flags()
    with pytest.raises(StopIteration):
        training.step(plan_of(config), 0, 1e-3, iter([]))
    assert flags() == before
