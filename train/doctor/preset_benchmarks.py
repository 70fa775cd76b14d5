"""What bounds a preset on this machine: its training batches by number of workers and with decoded samples held, its
step by micro-batch, and what compiling that gains."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from steel.config import Config, PhaseConfig
from steel.distributed.runtime import Runtime, seed_everything
from steel.errors import SharedError, is_out_of_memory
from steel.loading.train_loader import MicroBatch
from steel.machine import peak_memory, reset_peak_memory
from steel.model.network import UnifiedModel
from steel.shards.reader import ShardReader
from train.doctor.benchmarks import loader_rate
from train.doctor.checks import GIB, Finding
from train.doctor.decoded_cache import CachedRates, cached_rates, judge_cached
from train.engine.batch_plan import PhasePlan, micro_batch_share
from train.engine.compilation import LEAST_GAIN, choose_compilation
from train.engine.data import resolve_crop
from train.engine.device_batches import device_batches
from train.engine.made_up_batch import made_up_batch
from train.engine.step import TrainingState
from train.preparation import network_for

STEP_SECONDS = 6.0
MOST_OF_A_STEP = 0.5
"""Sums go on beside the backward pass, which is two thirds of a step: longer ones cannot be hidden behind it."""
ENOUGH = 1.25
"""A loader that is so many times as fast as the steps never keeps them waiting."""


@dataclass(frozen=True)
class StepCost:
    """Of one rank's step on one micro-batch."""

    seconds: float
    memory: int | None
    """Bytes at the peak: what torch has allocated on a GPU, on a CPU all of the process; None where the system does not
    tell."""
    sum_seconds: float = 0.0
    """Of the sum of all gradients over the ranks, with nothing beside it; 0 for one rank."""
    sum_bytes: int = 0
    """Of these gradients."""


def probe_preset(
    runtime: Runtime, config: Config, reader: ShardReader, workers: int, *, compiles: bool
) -> Iterator[Finding]:
    """Measure each phase of the recipe, and say what bounds it; every rank calls this.

    Args:
        runtime: this rank's.
        config: of the preset.
        reader: of the shards.
        workers: loader processes; half of them and one are measured as well.
        compiles: measure what compiling a step gains, too.
    """
    for phase in config.phases:
        crop = resolve_crop(reader, np.arange(len(reader)), phase.crop, config.tiling, phase.sampling.zoom[0])
        rates = {
            some: loader_rate(reader, config, phase, crop, some, runtime)
            for some in sorted({1, max(1, workers // 2), workers})
        }
        cached = cached_rates(runtime, reader, config, phase, crop, max(rates))
        costs = {micro: step_cost(runtime, config, reader, phase, crop, micro) for micro in _micro_batches(phase)}
        size = f"{crop[0]}x{crop[1]}"
        told = ", ".join(f"{rate:.0f} with {some}" for some, rate in rates.items())
        yield Finding("loader", f"phase {phase.name}: crops/s of {size} per rank by workers: {told}")
        yield judge_cached(phase.name, cached, max(rates))
        told = ", ".join(_shown(micro, cost) for micro, cost in costs.items())
        yield Finding("step", f"phase {phase.name}: by micro-batch: {told}")
        yield from bound(phase, rates, costs, cached)
        if compiles and costs[phase.micro_batch] is not None:
            yield compile_gain(runtime, config, reader, phase, crop)


def bound(
    phase: PhaseConfig,
    rates: Mapping[int, float],
    costs: Mapping[int, StepCost | None],
    cached: CachedRates | str,
) -> Iterator[Finding]:
    """What keeps a phase from being faster, and what to do about it.

    Args:
        phase: its micro-batch is one of `costs`.
        rates: training samples per second of a rank by workers, when each is decoded.
        costs: of a step by micro-batch; None where memory did not suffice.
        cached: with the decoded cache; or why that was not measured.
    """
    own = costs[phase.micro_batch]
    if own is None:
        text = f"phase {phase.name}: micro-batch {phase.micro_batch} does not fit; a smaller phases.N.micro-batch does"
        fitting = [micro for micro, cost in costs.items() if cost is not None]
        yield Finding("bound", text + (f", {max(fitting)} here" if fitting else ""), "problem")
        return
    if own.sum_seconds > MOST_OF_A_STEP * own.seconds:
        text = (
            f"the link between the ranks: to sum {own.sum_bytes / 1e6:.0f} MB of gradients takes "
            f"{1000 * own.sum_seconds:.0f} ms, and a step of a micro-batch each {1000 * own.seconds:.0f}; take fewer "
            "ranks, a faster link, or a larger phases.N.batch-size, which is summed as often as a small one"
        )
        yield Finding("bound", f"phase {phase.name}: {text}", "warning")
    needed = phase.micro_batch / own.seconds
    enough = [workers for workers, rate in sorted(rates.items()) if rate >= ENOUGH * needed]
    if enough:
        text = f"the network, {needed:.0f} images/s a rank; --runtime.workers {enough[0]} is enough"
        yield Finding("bound", f"phase {phase.name}: {text}")
        faster = {m: m / c.seconds for m, c in costs.items() if c is not None and m / c.seconds > ENOUGH * needed}
        if faster:
            best = max(faster, key=lambda micro: faster[micro])
            text = f"a micro-batch of {best} would take {faster[best]:.0f} images/s; it changes what BatchNorm sees"
            yield Finding("bound", f"phase {phase.name}: {text}, so tune batch and rate with it")
        return
    most = max(rates, key=lambda workers: rates[workers])
    text = (
        f"the loader, {rates[most]:.0f} crops/s per rank with {most} workers where the network takes {needed:.0f}; "
        "give each rank more cores"
    )
    if isinstance(cached, CachedRates) and cached.is_faster:
        text += (
            f", or decode once: {cached.held:.0f} crops/s with --runtime.decoded-cache on, which auto, the default, is "
            "where a run saves time by it"
        )
    yield Finding("bound", f"phase {phase.name}: {text}", "warning")


def step_cost(
    runtime: Runtime, config: Config, reader: ShardReader, phase: PhaseConfig, crop: tuple[int, int], micro: int
) -> StepCost | None:
    """The median step of all ranks with a micro-batch each, the sum of gradients included; None when memory ran out."""
    device = runtime.device
    on_gpu = device.type == "cuda"
    plan = _one_micro_batch_each(runtime, reader, phase, micro)
    batch = _batch(runtime, reader, plan, crop)
    batches = device_batches((batch for _ in itertools.count()), device)
    try:
        training = _training(runtime, config, reader)
        peak = _watch_memory(device)
        times: list[float] = []
        while len(times) < 3 or (len(times) < 20 and sum(times) < STEP_SECONDS):
            start = time.perf_counter()
            training.step(plan, len(times), phase.lr, batches)
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(runtime.broadcast(time.perf_counter() - start))  # all ranks stop after the same step
        of_sum = _sum_cost(runtime, training)
    except RuntimeError as error:
        if runtime.world > 1 or not is_out_of_memory(error):
            raise
        return None
    return StepCost(float(np.median(times[1:])), peak(), *of_sum)


def _watch_memory(device: torch.device) -> Callable[[], int | None]:
    """Asked later, the most that has been held since; see `StepCost.memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    return peak_memory if reset_peak_memory() else lambda: None


def _sum_cost(runtime: Runtime, training: TrainingState) -> tuple[float, int]:
    """Median seconds of a sum of as many bytes as the gradients have, and these bytes; zeros for one rank."""
    if runtime.world == 1:
        return 0.0, 0
    numbers = torch.zeros(sum(p.numel() for p in training.parameters if p.requires_grad), device=runtime.device)
    times: list[float] = []
    for _ in range(4):
        start = time.perf_counter()
        runtime.all_reduce(numbers)
        numbers[-1].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:])), numbers.nbytes


def compile_gain(
    runtime: Runtime, config: Config, reader: ShardReader, phase: PhaseConfig, crop: tuple[int, int]
) -> Finding:
    """How many times as fast a micro-batch of a phase is compiled, measured as a run does it."""
    config = replace(config, runtime=replace(config.runtime, compile="on"))
    plan = _one_micro_batch_each(runtime, reader, phase, phase.micro_batch)
    training = _training(runtime, config, reader)
    on_cpu = runtime.device.type == "cpu"
    try:
        choice = choose_compilation(training, plan, 0, lambda: _batch(runtime, reader, plan, crop), None)
    except SharedError as error:
        return not_compiled(str(error), on_cpu=on_cpu)
    finally:
        training.micro_batch_losses.compute_eagerly()
    assert choice is not None and choice.gain is not None, "measured"
    advice = compile_advice(choice.gain, on_cpu=on_cpu)
    return Finding("compile", f"phase {phase.name}: compiled, a micro-batch is {choice.gain:.2f}x as fast; {advice}")


def not_compiled(problem: str, *, on_cpu: bool) -> Finding:
    """What it means that torch cannot compile a step."""
    if on_cpu:
        problem = problem.removesuffix(", or take --runtime.compile off")  # which is what a CPU does anyway
        return Finding("compile", f"{problem}; training needs none of it: on a CPU only --runtime.compile on compiles")
    return Finding("compile", problem, "warning")


def compile_advice(gain: float, *, on_cpu: bool) -> str:
    """What to do with a gain."""
    if gain < LEAST_GAIN:
        return f"--runtime.compile off is {'as good' if gain > 1 / LEAST_GAIN else 'faster'}"
    if on_cpu:
        return "--runtime.compile on takes it, auto never compiles on a CPU"
    return "--runtime.compile auto takes it"


def _training(runtime: Runtime, config: Config, reader: ShardReader) -> TrainingState:
    """A fresh one, alone on the device: what was measured before would count as its memory."""
    runtime.forget_trainings()
    manifest = reader.manifest
    seed_everything(0)
    model = UnifiedModel(network_for(config, manifest))
    return TrainingState(runtime, config, model, manifest.mean, manifest.std, freeze_steps=0)


def _one_micro_batch_each(runtime: Runtime, reader: ShardReader, phase: PhaseConfig, micro: int) -> PhasePlan:
    """The phase in steps of one micro-batch a rank."""
    phase = replace(phase, batch_size=micro * runtime.world, micro_batch=micro)
    return PhasePlan(0, phase, len(reader), len(reader), 0, micro_batch_share(phase, runtime.rank, runtime.world))


def _batch(runtime: Runtime, reader: ShardReader, plan: PhasePlan, crop: tuple[int, int]) -> MicroBatch:
    manifest, on_gpu = reader.manifest, runtime.device.type == "cuda"
    sizes = (manifest.channels, manifest.num_classes, plan.phase.micro_batch, crop)
    return made_up_batch(*sizes, pin_memory=on_gpu, index=plan.share[0])


def _micro_batches(phase: PhaseConfig) -> list[int]:
    """The recipe's, half and twice as many."""
    return sorted({max(2, phase.micro_batch // 2), phase.micro_batch, 2 * phase.micro_batch})


def _shown(micro: int, cost: StepCost | None) -> str:
    if cost is None:
        return f"{micro} does not fit"
    memory = "" if cost.memory is None else f", {cost.memory / GIB:.1f} GiB"
    return f"{micro} in {1000 * cost.seconds:.0f} ms ({micro / cost.seconds:.1f} images/s{memory})"
