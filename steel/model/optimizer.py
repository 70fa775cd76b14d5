"""AdamW and what surrounds it: parameter groups, steps that can be refused, averages of the weights.

Nothing here waits for the device: whether a step counts is a tensor (`found_inf`, `skip`: 0 or 1) that stays there.
"""

import abc
import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from steel.config import OptimConfig
from steel.errors import InputError
from steel.model.network import UnifiedModel


def parameter_groups(
    model: UnifiedModel, config: OptimConfig, further: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Encoder and the rest, each with and without weight decay; `lr_scale` says which share of the rate a group gets.

    With `layer_decay` the encoder's are two for each of its stages, from the input on. Biases, normalisation layers and
    other vectors are not decayed: pulling them to 0 regularises nothing.

    Args:
        model: whose parameters they are.
        config: rates and decay.
        further: trained as the decoder is, but no part of `model`.

    Raises:
        InputError: the rate is to decay over an encoder that has one stage.
    """
    encoder = {id(p) for p in model.encoder.parameters()}
    rest = [parameter for parameter in (*model.parameters(), *further) if id(parameter) not in encoder]
    groups = [
        {
            "name": name if decayed else f"{name} (no decay)",
            "params": [p for p in parameters if p.requires_grad and (p.ndim > 1) == decayed],
            "lr_scale": lr_scale,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for name, lr_scale, parameters in (*_encoder_parts(model, config), ("decoder", 1.0, rest))
        for decayed in (True, False)
    ]
    return [group for group in groups if group["params"]]


def _encoder_parts(model: UnifiedModel, config: OptimConfig) -> list[tuple[str, float, list[nn.Parameter]]]:
    """Name, share of the rate and parameters of all that has one rate in the encoder."""
    if config.layer_decay == 1:
        return [("encoder", config.encoder_lr_scale, list(model.encoder.parameters()))]
    stages = model.encoder_stages()
    if len(stages) < 2:
        raise InputError(
            f"optim.layer-decay {config.layer_decay:g}: the encoder {model.network.encoder} has one stage alone, whose "
            "rate optim.encoder-lr-scale sets; leave layer-decay at 1 or choose another encoder"
        )
    return [
        (f"encoder stage {number}", config.encoder_lr_scale * config.layer_decay ** (len(stages) - number), stage)
        for number, stage in enumerate(stages, start=1)
    ]


def build_optimizer(
    model: UnifiedModel, config: OptimConfig, further: Iterable[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """Fused AdamW over `parameter_groups`, at rate 0 until `set_lr`."""
    return torch.optim.AdamW(parameter_groups(model, config, further), lr=0.0, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def step_if_finite(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Step, unless `found_inf` (0-d float32 on the parameters' device) is 1: then nothing of its state moves.

    The fused kernels decide on the device. They also take for granted that a parameter, its gradient and its moments
    lie alike in memory, and on a CPU corrupt the step without a word where one is channels-last and another is not;
    here that is put right first. `optimizer` is torch's own, not a wrapper.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad = _laid_out_like(parameter.grad, parameter)
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict`, also where the state was stored contiguous and the parameters are channels-last."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = _laid_out_like(value, parameter)


def _laid_out_like(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype, memory_format=torch.preserve_format).copy_(tensor)


class AveragedTensors(NamedTuple):
    """What of a network is averaged: found once, for a step walks over no modules."""

    floats: list[Tensor]
    """Parameters and floating-point buffers."""
    counters: list[Tensor]
    """The other buffers."""

    @classmethod
    def of(cls, model: nn.Module) -> "AveragedTensors":
        """The tensors of `model` themselves, good until it is moved."""
        buffers = list(model.buffers())
        floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        return cls([*model.parameters(), *floats], [buffer for buffer in buffers if not buffer.is_floating_point()])


class WeightAverage(abc.ABC):
    """An average of the weights and of the normalisation statistics that go with them, on the model's device.

    Statistics are averaged as the weights are, because they describe the activations of the weights of their time: a
    copy of the latest would belong to weights that the average lags behind. Counters are copied.
    """

    name: ClassVar[str]
    """Of what it is at the end of a run, as a candidate to ship."""

    def __init__(self, model: nn.Module) -> None:
        """Start from `model` as it is."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """The average itself, ready to be evaluated."""
        self._tensors = AveragedTensors.of(self.model)
        self._num_updates = torch.zeros((), device=self._tensors.floats[0].device)

    @torch.no_grad()
    def update(self, latest: AveragedTensors, skip: Tensor | None = None) -> None:
        """Take in the network of `latest`, unless `skip` (0-d, on the device) is 1.

        It must be finite also then, as it is after `step_if_finite` and `RunningStatistics` refused a step.
        """
        counts = torch.ones_like(self._num_updates) if skip is None else 1 - skip
        weight = self._weight(self._num_updates, counts)
        self._num_updates += counts
        steps = torch._foreach_sub(latest.floats, self._tensors.floats)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(self._tensors.floats, steps)
        if latest.counters:
            torch._foreach_copy_(self._tensors.counters, latest.counters)

    @abc.abstractmethod
    def _weight(self, num_updates: Tensor, counts: Tensor) -> Tensor:
        """How far the average moves towards the latest weights, 0-d in 0..1: after so many updates, where this one
        counts (1) or is skipped (0)."""

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs."""
        return {"model": self.model.state_dict(), "num_updates": self._num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._num_updates.copy_(state["num_updates"])


class ExponentialAverage(WeightAverage):
    """A moving average, which forgets the past.

    Early on it moves faster, by 9 / (10 + updates so far), so that the first, random weights are soon forgotten; with a
    decay of 1 to the end, which is the polynomial averaging of Shamir & Zhang 2013.
    """

    name = "moving average at the end"

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from `model` as it is; `decay` in (0, 1] is the most that the average keeps in an update."""
        super().__init__(model)
        self.decay = decay

    def _weight(self, num_updates: Tensor, counts: Tensor) -> Tensor:
        return (9 / (10 + num_updates)).clamp(min=1 - self.decay) * counts


class EqualAverage(WeightAverage):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights after each update.

    Their authors compute the normalisation statistics of the mean anew, in one more pass over the data; here they are
    the mean of those that the weights had, as in any average: near the end of a run the weights lie close together, and
    what a run does stays a matter of its steps. The model that it started from is forgotten with the first update, be
    that a skipped one: until one counts, the average is the latest weights.
    """

    name = "equal average of the last phase"

    def _weight(self, num_updates: Tensor, counts: Tensor) -> Tensor:
        return torch.where(num_updates == 0, 1.0, counts) / (num_updates + 1)


def build_average(model: nn.Module, config: OptimConfig) -> WeightAverage | None:
    """The average that `config` asks for, at `model` as it is; None where it asks for none."""
    if config.swa:
        return EqualAverage(model)
    return ExponentialAverage(model, config.ema_decay) if config.ema_decay > 0 else None


def average_state_dicts(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several models' tensors (in float64, then as they were); counters are the last one's."""
    assert states, "nothing to average"
    result = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            total = sum((state[name].double() for state in states), torch.zeros_like(last, dtype=torch.float64))
            result[name] = (total / len(states)).to(last.dtype)
        else:
            result[name] = last.clone()
    return result
