"""Where the body of a test runs: on the GPU, and where that makes sense on the CPU too, which every machine has."""

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState

from steel.config import NetworkConfig
from steel.distributed.runtime import Runtime, seed_everything, start
from steel.loading.train_loader import MicroBatch
from steel.model.network import UnifiedModel
from tests.numerics.one_step import NUM_CLASSES, config_of
from train.engine.batch_plan import PhasePlan
from train.engine.made_up_batch import made_up_batch
from train.engine.step import TrainingState

GPU = torch.device("cuda", 0)
PLACES = [
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(
        GPU,
        id="cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")],
    ),
]
LR = 1e-2


@contextlib.contextmanager
def job_on(place: torch.device, precision: str = "no") -> Iterator[Runtime]:
    """A job of one rank there, which has one thread of the CPU; in fp16 on a CPU too, which programs refuse."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small networks wait for others' threads more than they compute
    AcceleratorState._reset_state(reset_partial_state=True)
    is_refused = precision == "fp16" and place.type == "cpu"
    runtime = start("no" if is_refused else precision, cpu=place.type == "cpu")
    if is_refused:
        runtime.accelerator.state._mixed_precision = precision
        runtime.accelerator.native_amp = True
        runtime.accelerator.scaler = torch.amp.GradScaler("cpu")
    try:
        yield runtime
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def no_host_waits(place: torch.device) -> Iterator[None]:
    """What makes the host wait for a GPU is an error in the block, but for waiting for an event: see `behind`."""
    if place.type != "cuda":
        yield
        return

    def wait(*_: Any, **__: Any) -> None:
        raise AssertionError("the host waits for all that the GPU has to do")  # which torch's own mode lets pass

    with patch.object(torch.cuda, "synchronize", wait), patch.object(torch.cuda.Stream, "synchronize", wait):
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def fall_behind(place: torch.device) -> None:
    """Give a GPU a second or more to do, in which the host goes on."""
    if place.type == "cuda":
        torch.cuda._sleep(2 * 10**9)  # in cycles, of which there are one or two in a nanosecond


@contextlib.contextmanager
def behind(place: torch.device) -> Iterator[None]:
    """A GPU that falls behind is still behind when the block ends: the host has waited for nothing in it.

    For blocks of some hundred launches: a GPU queues about a thousand, and lets the host wait with the next one.
    """
    if place.type != "cuda":
        yield
        return
    torch.cuda.synchronize(place)  # the queue is empty
    fall_behind(place)
    reached = torch.cuda.Event()
    reached.record(torch.cuda.current_stream(place))
    yield
    assert not reached.query(), "the host has waited for the GPU"


def training_of(runtime: Runtime, **changes: Any) -> TrainingState:
    """Of a small network, in steps of two micro-batches; clipped and averaged. `changes` are of `runtime` options."""
    config = config_of(batch_size=6, micro_batch=3)
    config = replace(config, optim=replace(config.optim, clip_norm=1.0), runtime=replace(config.runtime, **changes))
    seed_everything(0)
    network = NetworkConfig("Unet", "tu-test_resnet", NUM_CLASSES, 1, decoder_channels=(8, 8), dropout=0.1)
    return TrainingState(runtime, config, UnifiedModel(network), mean=(0.5,), std=(0.2,), freeze_steps=0)


def batch_for(place: torch.device, crop: tuple[int, int] = (32, 64), index: int = 0) -> MicroBatch:
    """On the host, as the loader has it for that place."""
    return made_up_batch(1, NUM_CLASSES, 3, crop, pin_memory=place.type == "cuda", index=index)


def micro_batches(
    place: torch.device, plan: PhasePlan, crop: tuple[int, int] = (32, 64)
) -> Generator[MicroBatch, None, None]:
    """Those of step after step, without end, on the host."""
    made = [batch_for(place, crop, index) for index in plan.share]
    while True:
        yield from made


def look(training: TrainingState) -> dict[str, torch.Tensor]:
    """Copies, on the device, of all that a state has but the scaler."""
    return {name: t.clone() for name, t in training.tensors().items() if not name.startswith("scaler.")}


def changed(before: dict[str, torch.Tensor], training: TrainingState) -> list[str]:
    """What is another than it was."""
    after = look(training)
    return [name for name, tensor in before.items() if not tensor.equal(after[name])]
