"""What training changes - the network, the average of its weights, the optimizer - and one optimizer step on it."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from steel.config import Config
from steel.distributed.runtime import Runtime, seed_micro_batch
from steel.loading.train_loader import MicroBatch
from steel.model.batch_norm import RunningStatistics
from steel.model.distillation import SoftTargets
from steel.model.network import UnifiedModel, drop_gradients, set_encoder_trainable
from steel.model.optimizer import (
    AveragedTensors,
    WeightAverage,
    build_average,
    build_optimizer,
    load_optimizer_state,
    set_lr,
    step_if_finite,
)
from train.engine.batch_plan import PhasePlan
from train.engine.kernels import training_kernels
from train.engine.micro_batch_losses import MicroBatchLosses, hold_gradients
from train.engine.teacher import Teacher


@dataclass(frozen=True)
class StepSums:
    """What one rank saw in one step, on the device; nothing here has been waited for."""

    losses: dict[str, torch.Tensor]
    """Weighted loss of each head of the network, this rank's share of the step's mean; float64 scalars."""
    skipped: torch.Tensor
    """1.0 where the step was skipped for a non-finite gradient, else 0.0; the same on every rank."""
    sample_losses: torch.Tensor
    """(n,) float32 loss of each of this rank's samples."""
    rows: torch.Tensor
    """(n,) int64 their rows in the data set."""
    bad_samples: int
    """Samples the loader had to replace."""


class TrainingState:
    """What each optimizer step changes: the network, its running statistics, their average, the optimizer."""

    def __init__(
        self,
        runtime: Runtime,
        config: Config,
        model: UnifiedModel,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        freeze_steps: int,
        teacher: Teacher | None = None,
    ) -> None:
        self.runtime = runtime
        self.config = config
        self.freeze_steps = freeze_steps
        model.to(runtime.device)
        if config.runtime.channels_last:
            model.to(memory_format=torch.channels_last)
        runtime.broadcast_tensors(model)  # rank 0 alone has looked for first weights
        self.model = model
        self.statistics = RunningStatistics(model)
        self.average = build_average(model, config.optim)
        self._first_averaged = len(config.phases) - 1 if config.optim.swa else 0
        """The phase from which on weights are averaged."""
        self.micro_batch_losses = MicroBatchLosses(
            *(model, mean, std),
            channels_last=config.runtime.channels_last,
            teacher_share=config.distill.share,
            judged_stages=config.model.deep_supervision,
        )
        """By the network: bare, for its own weights' or another's losses; `wrapped`, for its gradients'."""
        self.stage_heads = self.micro_batch_losses.stage_heads
        runtime.broadcast_tensors(self.stage_heads)
        self.optimizer = build_optimizer(model, config.optim, self.stage_heads.parameters())
        # Moved above already; accelerate would give `cpu:0` new buffers.
        self.wrapped, _ = runtime.accelerator.prepare(
            self.micro_batch_losses, self.optimizer, device_placement=[False, False]
        )
        # Found once: a walk over the modules costs a step more than many of its launches.
        self.parameters = list(self.micro_batch_losses.parameters())
        """All that is trained: the network's, and those of layers that are of training alone."""
        self._encoder_parameters = list(model.encoder.parameters())
        self._latest = AveragedTensors.of(model)
        self.scaler: torch.amp.GradScaler | None = runtime.accelerator.scaler
        """Of fp16 training alone."""
        if self.scaler is not None:  # the job's only one: trainings before this have moved its scale
            self.scaler.load_state_dict(torch.amp.GradScaler(runtime.device.type).state_dict())
        self._teacher = teacher

    @property
    def has_stepped(self) -> bool:
        """Whether any step, of earlier attempts too, was not skipped; waits for the device."""
        return any(bool(values["step"] > 0) for values in self.optimizer.state.values())

    def scored_model(self, phase: int) -> UnifiedModel:
        """The weights that are validated after a step of phase number `phase`: their average where there is one."""
        average = self._average_in(phase)
        return self.model if average is None else cast(UnifiedModel, average.model)

    def _average_in(self, phase: int) -> WeightAverage | None:
        """The average that steps of phase number `phase` are taken into."""
        return self.average if phase >= self._first_averaged else None

    def ask_teacher(self, images: torch.Tensor) -> SoftTargets | None:
        """What the teacher says of (m, c, h, w) uint8 on the device; None without one."""
        return None if self._teacher is None else self._teacher(images)

    def step(self, plan: PhasePlan, step: int, lr: float, batches: Iterator[MicroBatch]) -> StepSums:
        """Take one optimizer step at rate `lr` on this rank's micro-batches of `step`, drawn from `batches`.

        These are on the device; see `train.engine.device_batches`.

        A step with a non-finite gradient changes nothing (weights, average, optimizer state, running statistics), but
        its positions are consumed and the learning-rate schedule goes on.
        """
        with training_kernels(self.config.runtime):
            return self._step(plan, step, lr, batches)

    def _step(self, plan: PhasePlan, step: int, lr: float, batches: Iterator[MicroBatch]) -> StepSums:
        frozen = plan.first_global_step + step < self.freeze_steps
        if not self.model.training:
            self.wrapped.train()
        set_encoder_trainable(self.model, not frozen)
        set_lr(self.optimizer, lr)
        before = self.statistics.take()
        if self.micro_batch_losses.replays:
            hold_gradients(self.parameters)
        seen = [self._micro_step(plan, step, next(batches), last=index == plan.share[-1]) for index in plan.share]
        if frozen:
            drop_gradients(self._encoder_parameters)

        norm = self.runtime.accelerator.clip_grad_norm_(self.parameters, self.config.optim.clip_norm)
        skipped = (~torch.isfinite(norm)).float()
        step_if_finite(self.optimizer, skipped)
        if self.scaler is not None:
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.micro_batch_losses.replays)
        self.statistics.settle(before, skipped, plan.share, plan.phase.micro_batches, self.runtime.all_reduce)
        average = self._average_in(plan.number)
        if average is not None:
            average.update(self._latest, skip=skipped)
        return StepSums(
            losses={head: torch.stack([s.losses[head] for s in seen]).sum() for head in seen[0].losses},
            skipped=skipped,
            sample_losses=torch.cat([s.sample_losses for s in seen]),
            rows=torch.cat([s.rows for s in seen]),
            bad_samples=sum(s.bad_samples for s in seen),
        )

    def _micro_step(self, plan: PhasePlan, step: int, batch: MicroBatch, *, last: bool) -> StepSums:
        """Forward and backward of one micro-batch; the gradients are summed over ranks with the rank's last one."""
        runtime = self.runtime
        seed_micro_batch(self.config.seed, plan.number, step, batch.index)
        gathering = runtime.accelerator.no_sync(self.wrapped)
        soft = self.ask_teacher(batch.images)
        with contextlib.nullcontext() if last else gathering:
            losses: dict[str, torch.Tensor] = self.wrapped(
                batch.images, batch.targets, plan.phase.loss, batch.pairs, soft
            )
            # Shares of the step's mean: sums over the constant number of terms in a global batch.
            shares = {head: loss.sum(1) / (plan.phase.batch_size * loss.shape[1]) for head, loss in losses.items()}
            sample_losses = functools.reduce(torch.add, shares.values())
            # DDP averages gradients over ranks; the loss is a sum over all of them.
            loss = sample_losses.sum() * runtime.world
            # A loss that is not finite leaves no finite gradient, so that all ranks skip the step alike.
            runtime.accelerator.backward(loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan))
        return StepSums(
            losses={head: share.detach().double().sum() for head, share in shares.items()},
            skipped=torch.zeros((), device=runtime.device),
            sample_losses=sample_losses.detach(),
            rows=batch.rows,
            bad_samples=batch.bad_samples,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that a resumed run needs, under flat names."""
        named = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        named |= {f"stage_heads.{name}": tensor for name, tensor in self.stage_heads.state_dict().items()}
        if self.average is not None:
            average = self.average.state_dict()
            named |= {f"average.{name}": tensor for name, tensor in average["model"].items()}
            named["average_updates"] = average["num_updates"]
        for index, values in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        if self.scaler is not None:
            named |= {f"scaler.{k}": torch.tensor(v, dtype=torch.float64) for k, v in self.scaler.state_dict().items()}
        return named

    def tensors_to_come(self) -> dict[str, torch.Tensor]:
        """Tensors of the shapes, types and order in memory of all that `tensors` will give in this run: AdamW makes a
        parameter's moments with its first gradient."""
        named: dict[str, torch.Tensor] = {}
        parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        for index, parameter in enumerate(parameters):
            moments = {f"optimizer.{index}.exp_avg": parameter, f"optimizer.{index}.exp_avg_sq": parameter}
            named |= {**moments, f"optimizer.{index}.step": torch.zeros((), device=parameter.device)}
        return named | self.tensors()

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave, in whatever precision: where that has no loss scale, fp16 looks for one."""

        def group(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(group("model."))
        self.stage_heads.load_state_dict(group("stage_heads."))
        if self.average is not None:
            self.average.load_state_dict({"model": group("average."), "num_updates": tensors["average_updates"]})
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in group("optimizer.").items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        param_groups = self.optimizer.state_dict()["param_groups"]
        load_optimizer_state(self.optimizer, {"state": states, "param_groups": param_groups})
        scale = group("scaler.")
        if self.scaler is not None and scale:
            kinds = {name: type(value) for name, value in self.scaler.state_dict().items()}
            self.scaler.load_state_dict({k: kinds[k](t.item()) for k, t in scale.items() if k in kinds})
