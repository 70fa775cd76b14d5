"""Tries what the phases will ask of network and device before the first step: one micro-batch of each, there and back.

A phase that cannot work would otherwise say so after all the phases before it, in torch's words.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from steel.distributed.runtime import Runtime
from steel.errors import InputError, SharedError, is_out_of_memory
from steel.loading.crop import target_dtype
from steel.model.batch_norm import Statistics
from steel.model.network import set_encoder_trainable
from train.engine.batch_plan import PhasePlan
from train.engine.kernels import training_kernels
from train.engine.memory_advice import less_memory
from train.engine.step import TrainingState

logger = logging.getLogger("train.fit")

_REFUSALS = (RuntimeError, ValueError, MemoryError, IndexError, AssertionError)
"""What torch, smp and timm raise when sizes do not go together, or memory has run out."""


def try_phases(
    runtime: Runtime,
    training: TrainingState,
    plans: Sequence[PhasePlan],
    crops: Sequence[tuple[int, int]],
    channels: int,
    *,
    has_begun: bool = False,
) -> None:
    """Run a micro-batch of each phase through the bare network and back, once for each distinct one; nothing of
    `training` changes, nor do the generators of random numbers.

    Args:
        runtime: of the job; every rank tries all.
        training: at the first step or at a resumed one.
        plans: the phases to come.
        crops: height and width of each.
        channels: of the images that the loader gives; the network may take a gray one for three equal channels.
        has_begun: the run goes on from a state.

    Raises:
        SharedError: on every rank alike, where any rank met an error; names the phase and the option.
    """
    problem: str | None = None
    tried: list[tuple[object, ...]] = []
    for plan, crop in zip(plans, crops, strict=True):
        is_frozen = plan.first_global_step + plan.steps <= training.freeze_steps
        demand = (crop, plan.phase.micro_batch, plan.phase.loss, is_frozen)
        if problem is None and demand not in tried:
            tried.append(demand)
            problem = _problem_of(training, plan, crop, channels, is_frozen, has_begun)
    problems = runtime.all_gather(problem)
    told = [f"rank {rank}: {said}" for rank, said in enumerate(problems) if said is not None]
    if told:
        raise SharedError(problem if problem is not None and problems.count(problem) == len(problems) else told[0])


def _problem_of(
    training: TrainingState, plan: PhasePlan, crop: tuple[int, int], channels: int, is_frozen: bool, has_begun: bool
) -> str | None:
    """What stands against the phase, in a line; None when nothing does."""
    size, option = f"{crop[0]}x{crop[1]}", f"phases.{plan.number}.micro-batch {plan.phase.micro_batch}"
    network = f"{training.model.network.architecture} with {training.model.network.encoder}"
    logger.info("phase %s: trying a micro-batch of %d images of %s", plan.phase.name, plan.phase.micro_batch, size)
    try:
        with untouched(training) as before:
            training.model.train()
            set_encoder_trainable(training.model, not is_frozen)
            _there_and_back(training, plan, crop, channels)
            _check_buffers(training, before)
    except InputError as error:
        return str(error)
    except _REFUSALS as error:
        reason = " ".join(str(error).partition("\n")[0].split())[:200] or type(error).__name__
        if is_out_of_memory(error):
            advice = less_memory({plan.number: plan.phase}, has_begun=has_begun)
            trouble = f"out of memory ({reason}) with {option} of {size}; {advice}"
        elif "more than 1 value per channel" in reason:
            trouble = (
                f"{option} leaves a BatchNorm layer of {network} one value per channel to normalise; use 2 or more"
            )
        else:
            trouble = f"{network} fails on {option} of {size} ({reason}); choose another crop or network"
        return f"phase {plan.phase.name}: {trouble}"
    return None


def _there_and_back(training: TrainingState, plan: PhasePlan, crop: tuple[int, int], channels: int) -> None:
    """The forward and backward pass of a black micro-batch of the phase's size; gradients go nowhere."""
    model, device, num = training.model, training.runtime.device, plan.phase.micro_batch
    parameters = [parameter for parameter in training.parameters if parameter.requires_grad]
    # A step also holds gradients, whose room DDP has taken already, and AdamW's two moments, made in the first step.
    sets = (training.runtime.world == 1) + 2 * (not training.optimizer.state)
    room = [torch.empty_like(parameter) for parameter in parameters for _ in range(sets)]
    images = torch.zeros(num, channels, *crop, dtype=torch.uint8, device=device)
    targets = torch.from_numpy(np.zeros((num, *crop), target_dtype(model.network.num_classes))).to(device)
    losses = training.micro_batch_losses(images, targets, plan.phase.loss, None, training.ask_teacher(images))
    total = torch.stack([loss.sum() for loss in losses.values()]).sum()
    torch.autograd.grad(total, parameters, allow_unused=True)
    del room


class _Buffers(NamedTuple):
    """A network's buffers at one moment."""

    statistics: Statistics
    others: list[tuple[str, torch.Tensor, torch.Tensor]]
    """Name, buffer, and a copy."""


def _check_buffers(training: TrainingState, before: _Buffers) -> None:
    """Make sure that a forward pass has changed running statistics alone, and each once.

    Raises:
        InputError: what it leaves behind would depend on the number of processes; names the buffer.
    """
    moved = [name for name, buffer, value in before.others if not buffer.equal(value)]
    if (training.statistics.take().counts - before.statistics.counts > 1).any():
        moved.append("a BatchNorm layer that an image passes several times")
    if moved:
        raise InputError(
            f"model: {moved[0]} changes in training in a way that depends on the number of processes; choose another "
            "encoder or architecture"
        )


@contextlib.contextmanager
def untouched(training: TrainingState) -> Iterator[_Buffers]:
    """Put back after the block, by the kernels of training, what a pass through the network changes: buffers, modes,
    random numbers."""
    model, device = training.model, training.runtime.device
    was_training, was_frozen = model.training, model.encoder_frozen
    statistics = training.statistics.take()
    others = [(name, b, b.clone()) for name, b in model.named_buffers() if not training.statistics.hold(b)]
    random_numbers = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with random_numbers, training_kernels(training.config.runtime):
        try:
            yield _Buffers(statistics, others)
        finally:
            training.statistics.put_back(statistics)
            for _, buffer, value in others:
                buffer.copy_(value)
            set_encoder_trainable(model, not was_frozen)
            model.train(was_training)
