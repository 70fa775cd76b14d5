"""First convolutions of one channel from those of three, and the other way round, for inputs normalised either way.

On a gray image R = G = B = g. Weights w of three channels see (g - m_c) / s_c in channel c, so one channel that sees
x = (g - m) / s needs

    w' = s * sum_c w_c / s_c        and the constant        b' = sum_c,k w_c,k * (m - m_c) / s_c

which goes into the convolution's bias or off the mean of the batch normalisation behind it. A plain sum of w, as it is
often taken, is right for equal s_c alone. Where a convolution pads with zeros, and the m_c differ, padding stood for a
gray that is another in each channel: there, in a border as wide as the padding, no single channel says the same.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steel.errors import InputError

logger = logging.getLogger("train.fit")


@dataclass(frozen=True)
class Normalisation:
    """What a network expects of its inputs: one value for each of 1 or 3 channels, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, channels: int) -> "Normalisation":
        """As near as so many channels can come to it: the average of three, or one three times."""
        if len(self.mean) == channels:
            return self
        if len(self.mean) == 1:
            return Normalisation(self.mean * channels, self.std * channels)
        assert channels == 1, channels
        return Normalisation((sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),))


def adapt_stem(
    given: Tensor, expected: Normalisation, own_channels: int, inputs: Normalisation
) -> tuple[Tensor, Tensor]:
    """A first convolution for another number of channels, which says of gray images what it said.

    Args:
        given: (O, c, h, w) with c of 1 or 3.
        expected: what `given` was trained with.
        own_channels: 1 where c is 3, and 3 where it is 1.
        inputs: what the network will be given.

    Returns:
        (O, own_channels, h, w) weights, and an (O,) constant to be added to what they give.
    """
    mean, std = (_column(values) for values in (expected.mean, expected.std))
    own_mean, own_std = (_column(values) for values in (inputs.mean, inputs.std))
    # As if the network had as many channels as its weights, each with the gray that it is given.
    per_gray = (given.double() / std).sum(1, keepdim=True)
    weights = per_gray.expand(-1, own_channels, -1, -1) * own_std / own_channels
    constant = (per_gray * own_mean.mean() - (given.double() * mean / std).sum(1, keepdim=True)).sum((1, 2, 3))
    return weights.to(given.dtype), constant.to(given.dtype)


def add_constant(encoder: nn.Module, name: str, constant: Tensor, example: Tensor) -> None:
    """Add an (O,) constant to what the convolution of weight `name` gives, without any new tensor.

    Args:
        encoder: changed in place.
        name: of the weight in the encoder's state dict.
        constant: see `adapt_stem`.
        example: (1, c, H, W) images that the encoder takes.
    """
    if constant.abs().max() < 1e-6:
        return
    convolution = encoder.get_submodule(name.rpartition(".")[0])
    with torch.no_grad():
        if isinstance(convolution.bias, Tensor):
            convolution.bias.add_(constant)
            return
        norm = _next_norm(encoder, convolution, example)
        if norm is not None and isinstance(norm.running_mean, Tensor):
            norm.running_mean.sub_(constant)
            return
    logger.warning(
        "encoder weights: nothing behind %s takes up the difference of the channels' means; "
        "--model.in-channels 3 keeps them apart",
        name,
    )


def check_channels(given: Normalisation, channels: int, what: str) -> Normalisation:
    """`given` for weights of so many channels.

    Raises:
        InputError: three values for weights of one channel.
    """
    if len(given.mean) > channels:
        raise InputError(f"model.mean: {len(given.mean)} values, but {what} takes one channel; give one")
    return given.for_channels(channels)


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def _next_norm(encoder: nn.Module, convolution: nn.Module, example: Tensor) -> nn.BatchNorm2d | None:
    """The batch normalisation that is given what `convolution` gives; found by running `example`."""
    made: list[Tensor] = []
    norms: list[nn.BatchNorm2d] = []

    def note_output(_: nn.Module, __: Any, output: Any) -> None:
        made.append(output)

    def note_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if made and inputs and inputs[0] is made[-1] and isinstance(module, nn.BatchNorm2d):
            norms.append(module)

    hooks = [convolution.register_forward_hook(note_output)]
    hooks += [module.register_forward_pre_hook(note_input) for module in encoder.modules()]
    was_training = encoder.training
    try:
        encoder.eval()
        encoder(example)
    finally:
        encoder.train(was_training)
        for hook in hooks:
            hook.remove()
    return norms[0] if norms else None
