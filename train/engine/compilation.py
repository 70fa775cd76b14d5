"""Whether a phase's micro-batches go through a compiled graph: as asked, as chosen before, or by a short measurement.

What compiling costs is known only when it is done, a minute or several of them; what it saves is a share of the
phase's time. So `auto` first times a micro-batch without, and compiles where the phase goes on for so long that the
share that is hoped for exceeds the usual cost; then it keeps the graph if it is faster. A phase too short to try costs
one micro-batch, and one that tries in vain what it took to compile. On a CPU `auto` never tries: convolutions are most
of the time there, and the same kernels in both (compiled steps are no faster in `bench/train_step.md`, and slower in
`bench/end_to_end.md`); and a run there gives every bit again, which a choice by the clock would end.

A rank that is slower than the others holds them all up: its time counts. All ranks see the times of all, and choose
alike.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from steel.distributed.runtime import Runtime
from steel.errors import InputError, SharedError
from steel.loading.train_loader import MicroBatch
from steel.model.network import set_encoder_trainable
from train.engine.batch_plan import PhasePlan, most_micro_batches
from train.engine.dry_run import untouched
from train.engine.step import TrainingState

logger = logging.getLogger("train.fit")

REPEATS, SECONDS = 5, 6.0
"""A micro-batch is timed so often, or until so many seconds have passed."""
HOPED_SAVING = 0.15
"""Of a phase's time."""
COMPILE_S = 60.0
"""Before anything has been compiled it is taken to last so long."""
LEAST_GAIN = 1.03
"""A graph that is less than so many times as fast is not kept: the next measurement could say otherwise."""


@dataclass(frozen=True)
class CompileChoice:
    """Travels in every resumable state, so that a resumed run goes on with the same numbers."""

    compiled: bool
    gain: float | None = None
    """How many times as fast as without; None where that was not measured."""

    def __post_init__(self) -> None:
        if self.gain is not None and not 0 < self.gain < float("inf"):
            raise InputError(f"the gain of compiling is {self.gain}")

    def __str__(self) -> str:
        """In a few words; empty where nothing was tried."""
        if self.gain is None:
            return "compiled" if self.compiled else ""
        measured = f"a micro-batch was {self.gain:.2f} times as fast with a graph as without"
        return f"{'compiled' if self.compiled else 'not compiled'}: {measured}"


def is_worth_trying(seconds_left: float) -> bool:
    """Whether a stretch of training that takes so long without is likely to repay what compiling costs."""
    return seconds_left * HOPED_SAVING > COMPILE_S


def choose_compilation(
    training: TrainingState,
    plan: PhasePlan,
    step: int,
    make_batch: Callable[[], MicroBatch],
    earlier: CompileChoice | None,
    is_told_to_stop: Callable[[], bool] = lambda: False,
) -> CompileChoice | None:
    """Let `training` compute the phase's micro-batches from `step` on with a graph or without; every rank calls this.

    Nothing else of `training` changes, nor do the generators of random numbers.

    Args:
        training: all its micro-batches to come are of this phase, until the next call.
        plan: of the phase.
        step: the next one, which is not the phase's end.
        make_batch: a micro-batch of the phase's sizes, laid out as the loader's are.
        earlier: the choice of an attempt that has begun this phase. One that was told `off`, or could measure
            nothing, binds nobody.
        is_told_to_stop: whether this rank has received a stop signal, which may have reached its compilers, too.

    Returns:
        None where a compiler failed and some rank was told to stop: the next attempt chooses.

    Raises:
        SharedError: told to compile, and torch cannot.
    """
    runtime, asked = training.runtime, training.config.runtime.compile
    training.micro_batch_losses.compute_eagerly()
    if asked == "off":
        return CompileChoice(False)
    if asked == "auto" and not (earlier is not None and earlier.compiled):
        if earlier is not None and earlier.gain is not None:
            return earlier
        if runtime.device.type == "cpu":
            return CompileChoice(False)
    with untouched(training):
        training.wrapped.train()
        set_encoder_trainable(training.model, plan.first_global_step + step >= training.freeze_steps)
        trial = _Trial(training, plan, make_batch(), is_told_to_stop)
        try:
            if earlier is not None and earlier.compiled:
                return earlier if trial.compile(must=asked == "on") else CompileChoice(False)
            return _measure(trial, runtime, plan, step, must=asked == "on")
        except _StoppedError:
            return None


def _measure(trial: "_Trial", runtime: Runtime, plan: PhasePlan, step: int, *, must: bool) -> CompileChoice:
    name = plan.phase.name
    first = max(runtime.all_gather(trial.seconds(1)))
    a_step = first * most_micro_batches(plan.phase, runtime.world)  # with the rank's own share they would part here
    if not must and not is_worth_trying(a_step * (plan.steps - step)):
        logger.info("phase %s is too short to gain by compiling its step (runtime.compile)", name)
        return CompileChoice(False)
    eager = max(runtime.all_gather(trial.seconds(REPEATS)))
    begun = time.perf_counter()
    if not trial.compile(must=must):
        return CompileChoice(False)
    spent = time.perf_counter() - begun
    compiled = max(runtime.all_gather(trial.seconds(REPEATS)))
    choice = CompileChoice(must or eager >= LEAST_GAIN * compiled, eager / compiled)
    if not choice.compiled:
        trial.losses.compute_eagerly()
    logger.info(
        "phase %s: %s: a micro-batch takes %.1f ms compiled and %.1f ms not, %.2f times as fast; compiling took %.0f s",
        *(name, "compiled" if choice.compiled else "not compiled"),
        *(1000 * compiled, 1000 * eager, eager / compiled, spent),
    )
    return choice


class _StoppedError(Exception):
    """A compiler failed, and a stop signal had come."""


class _Trial:
    """A micro-batch's way there and back, over and over, as a step takes it but for the sum over the ranks."""

    def __init__(
        self, training: TrainingState, plan: PhasePlan, batch: MicroBatch, is_told_to_stop: Callable[[], bool]
    ) -> None:
        self.losses = training.micro_batch_losses
        self._is_told_to_stop = is_told_to_stop
        self._training = training
        self._plan = plan
        self._batch = batch
        self._parameters: list[nn.Parameter] = [p for p in training.parameters if p.requires_grad]

    def seconds(self, repeats: int) -> float:
        """The median of a few."""
        times: list[float] = []
        while len(times) < repeats and sum(times) < SECONDS:
            begun = time.perf_counter()
            self._there_and_back()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    def compile(self, *, must: bool) -> bool:
        """Make the graph; whether every rank could, else none has one.

        Raises:
            SharedError: on every rank alike, where some rank could not although it `must`.
            _StoppedError: on every rank alike, where some rank could not and some was told to stop.
        """
        name = self._plan.phase.name
        logger.info("phase %s: compiling the step; a stop signal is heeded when that is done", name)
        on_gpu = self._training.runtime.device.type == "cuda"
        self.losses.compile_anew(cuda_graphs=on_gpu)
        problem: str | None = None
        try:
            for _ in range(
                3 if on_gpu else 1
            ):  # a CUDA graph is recorded in the second call, and replayed from then on
                self._there_and_back()
        except Exception as error:  # torch's compiler raises of all kinds, those of the compilers that it calls too
            problem = " ".join(str(error).partition("\n")[0].split())[:300] or type(error).__name__
        told = [said for said in self._training.runtime.all_gather(problem) if said is not None]
        if not told:
            return True
        self.losses.compute_eagerly()
        if any(self._training.runtime.all_gather(self._is_told_to_stop())):
            raise _StoppedError
        advice = _advice(told[0])
        if must:
            raise SharedError(
                f"phase {name}: runtime.compile on: torch cannot compile the step ({told[0]}); "
                f"{advice}, or take --runtime.compile off"
            )
        logger.warning("phase %s: not compiled: torch cannot compile the step (%s); %s", name, told[0], advice)
        return False

    def _there_and_back(self) -> None:
        there_and_back(self._training, self._plan, self._batch, self._parameters)


def _advice(problem: str) -> str:
    """What helps where torch cannot compile a step."""
    if "file too short" in problem or "invalid ELF" in problem:  # torch takes a library that is there for a whole one
        from torch._inductor.runtime.cache_dir_utils import cache_dir  # here, as it imports the compiler

        return f"remove {cache_dir()}, where a compiler that was killed has left a part of a library"
    is_of_compiler = "ompiler" in problem or "C++" in problem
    return "see that a C++ compiler such as g++ works" if is_of_compiler else "choose another network or loss"


def there_and_back(
    training: TrainingState, plan: PhasePlan, batch: MicroBatch, parameters: Sequence[nn.Parameter]
) -> None:
    """A micro-batch's forward and backward pass, waited for; the gradients of `parameters` go nowhere."""
    runtime, wrapped = training.runtime, training.wrapped
    device = runtime.device
    images, targets = batch.images.to(device), batch.targets.to(device)
    pairs = None if batch.pairs is None else batch.pairs.to(device)
    soft = training.ask_teacher(images)
    # Through DDP, which the compiler must see around the graph.
    with runtime.accelerator.no_sync(wrapped):
        losses = wrapped(images, targets, plan.phase.loss, pairs, soft)
        total = torch.stack([loss.sum() for loss in losses.values()]).sum()
        torch.autograd.grad(total, parameters, allow_unused=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
