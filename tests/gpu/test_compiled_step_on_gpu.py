"""The compiled step: it loses what the eager one does, is compiled once a phase, and on a GPU replayed from then on,
where nothing waits for the device.

On a CPU compiling takes a minute, and there are no CUDA graphs.
"""

import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch._dynamo.utils import counters

from steel.loading.train_loader import MicroBatch
from tests.gpu.places import PLACES, batch_for, changed, job_on, look, micro_batches, no_host_waits, training_of
from tests.numerics.one_step import plan_of
from train.engine.batch_plan import PhasePlan
from train.engine.compilation import choose_compilation
from train.engine.device_batches import device_batches

CROPS = ((32, 64), (64, 96))
"""Of two phases."""
STEPS = 4
LR = 1e-3
SAME = 2e-3
"""Of losses; see `tests/numerics/test_compiled_run.py`."""

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler"),
]
ON_CPU, ON_GPU = PLACES


@dataclass
class Graphs:
    """CUDA graphs so far."""

    captures: int = 0
    replays: int = 0


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    found, begin, replay = Graphs(), torch.cuda.CUDAGraph.capture_begin, torch.cuda.CUDAGraph.replay

    def counting_begin(graph, *arguments, **options):  # type: ignore[no-untyped-def]
        found.captures += 1
        return begin(graph, *arguments, **options)

    def counting_replay(graph, *arguments, **options):  # type: ignore[no-untyped-def]
        found.replays += 1
        return replay(graph, *arguments, **options)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", counting_begin)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counting_replay)
    yield found
    torch.compiler.reset()


@dataclass
class Step:
    """What one came to."""

    loss: float
    compiled: int
    """Graphs that the compiler was given so far."""
    captures: int
    replays: int


def alternating(place: torch.device, plan: PhasePlan, crop: tuple[int, int]) -> Generator[MicroBatch, None, None]:
    """As `micro_batches`; every other one says of twice as many pairs that they may be present."""
    for number, batch in enumerate(micro_batches(place, plan, crop)):
        assert batch.pairs is not None
        more = torch.arange(2 * len(batch.pairs))
        yield replace(batch, pairs=more.pin_memory() if place.type == "cuda" else more) if number % 2 else batch


def train_two_phases(place: torch.device, asked: str, graphs: Graphs) -> list[Step]:
    """Some steps of each, in float32 in which nothing is rounded to TF32; a step has two numbers of present pairs."""
    found = []
    with job_on(place) as runtime:
        training = training_of(runtime, compile=asked, tf32=False)
        for number, crop in enumerate(CROPS):
            plan = replace(plan_of(training.config), number=number)
            choice = choose_compilation(training, plan, 0, lambda crop=crop: batch_for(place, crop), None)
            assert choice is not None and choice.compiled == (asked == "on")
            batches = device_batches(alternating(place, plan, crop), runtime.device)
            for step in range(STEPS):
                before = replace(graphs)
                sums = training.step(plan, step, LR, batches)
                assert not sums.skipped
                loss = float(torch.stack(list(sums.losses.values())).sum())
                captures, replays = graphs.captures - before.captures, graphs.replays - before.replays
                found.append(Step(loss, counters["stats"]["unique_graphs"], captures, replays))
            batches.close()
        training.micro_batch_losses.compute_eagerly()
    return found


COMPILING = [pytest.param(*ON_CPU.values, id="cpu", marks=pytest.mark.slow), ON_GPU]


@pytest.mark.parametrize("place", COMPILING)
def test_two_phases_are_compiled_once_each_and_lose_the_same(place: torch.device, graphs: Graphs) -> None:
    eager = train_two_phases(place, "off", graphs)
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = train_two_phases(place, "on", graphs)
    assert [step.loss for step in compiled] == pytest.approx([step.loss for step in eager], rel=SAME)
    assert len({step.loss for step in eager}) == 2 * STEPS  # each step changed the network
    assert [step.compiled for step in compiled] == [1] * STEPS + [2] * STEPS
    assert {(step.captures, step.replays) for step in eager} == {(0, 0)}
    if place.type == "cpu":
        assert graphs == Graphs()
        return
    assert counters["inductor"]["cudagraph_skips"] == 0
    # Pairs of another number than measured with want CUDA graphs of their own, which the second call records. Then each
    # step replays the way there and back of two micro-batches.
    for phase in (compiled[:STEPS], compiled[STEPS:]):
        assert [(step.captures, step.replays >= 4) for step in phase[2:]] == [(0, True)] * (STEPS - 2)


@pytest.mark.parametrize("place", COMPILING)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_no_replayed_step_waits_for_the_device(place: torch.device, precision: str, graphs: Graphs) -> None:
    with job_on(place, precision) as runtime:
        training = training_of(runtime, compile="on")
        plan = plan_of(training.config)
        choice = choose_compilation(training, plan, 0, lambda: batch_for(place, CROPS[0]), None)
        assert choice is not None and choice.compiled
        batches = device_batches(micro_batches(place, plan, CROPS[0]), runtime.device)
        training.step(plan, 0, LR, batches)  # the scaler is told where it is
        if training.scaler is not None:  # and of a scale at which nothing overflows
            training.scaler.load_state_dict(training.scaler.state_dict() | {"scale": 256.0})
        for step in (1, 2):  # what is still to be recorded and tuned
            training.step(plan, step, LR, batches)
        before, recorded = look(training), replace(graphs)
        with no_host_waits(place):
            found = [training.step(plan, step, LR, batches) for step in range(3, 6)]
        batches.close()
        assert [float(sums.skipped) for sums in found] == [0, 0, 0]
        assert {name.partition(".")[0] for name in changed(before, training)} >= {"model", "average", "optimizer"}
        assert training.micro_batch_losses.is_compiled
        assert (training.scaler is not None) == (precision == "fp16")
        assert training.micro_batch_losses.replays == (place.type == "cuda")
        if place.type == "cuda":  # the way there and back of each of two micro-batches
            assert (graphs.captures, graphs.replays >= recorded.replays + 4 * len(found)) == (recorded.captures, True)
        training.micro_batch_losses.compute_eagerly()
