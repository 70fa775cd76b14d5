"""First weights: heads that start at the data's frequencies, an encoder's that were published, or an earlier
checkpoint, also one with other classes; and the inputs that they expect."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from steel.checkpoint import parse_checkpoint, read_file
from steel.config import ModelConfig
from steel.errors import InputError, list_some, told_url
from steel.model.network import UnifiedModel
from steel.pretrained.encoder import (
    EncoderWeights,
    add_constants,
    check_adaptable,
    inherited_licence,
    load_encoder,
    tell_licence,
)
from steel.pretrained.stem import Normalisation, adapt_stem, check_channels
from steel.shards.format import Manifest
from steel.shards.split_roles import LearnedFrom, seen_folds

logger = logging.getLogger("train.fit")

_RELIANCE = "classification_head.reliance"
"""A tensor with a row for each class."""
_LABEL_HEAD = "classification_head.linear."
"""Tensors with a row for any defect, then one for each class."""


@dataclass(frozen=True)
class FirstWeights:
    """What a run starts from; a resumed run needs to know it, too."""

    encoder: EncoderWeights | None
    """Where the encoder's weights are from; None for random ones."""
    inputs: Normalisation
    """What the network expects of its inputs."""
    learned_from: tuple[LearnedFrom, ...] = ()
    """Checkpoints of this program among what it starts from, and its teacher: what they have seen counts for it."""

    def __post_init__(self) -> None:
        lengths = len(self.inputs.mean), len(self.inputs.std)
        if lengths not in ((1, 1), (3, 3)) or min(self.inputs.std) <= 0:
            raise InputError(f"inputs: {self.inputs}")


def find_first_weights(model: UnifiedModel, wanted: ModelConfig, init_from: str | None, data: Manifest) -> FirstWeights:
    """Give `model` its first weights, published ones or an earlier checkpoint's; with neither it keeps those it has.

    Args:
        model: changed in place.
        wanted: where the encoder's weights are, and what they expect.
        init_from: path or URL of a checkpoint to start all of the network from, in place of those.
        data: that it is to be trained on.

    Returns:
        What they are, of checkpoints of this program with what those have seen.

    Raises:
        InputError: weights that are not to be had or do not fit.
    """
    channels = model.network.in_channels
    given = None if wanted.mean is None or wanted.std is None else Normalisation(wanted.mean, wanted.std)
    of_data = Normalisation(data.mean, data.std).for_channels(channels)
    if init_from is not None:
        return FirstWeights(*initialise_weights(model, init_from, data.class_names, given))
    if wanted.weights == "none":
        return FirstWeights(None, of_data if given is None else check_channels(given, channels, "the network"))
    return FirstWeights(*load_encoder(model, wanted.weights, given))


def start_heads_at_frequencies(model: UnifiedModel, areas: np.ndarray, pixels: int) -> None:
    """Set the biases of both heads so that the untrained network predicts each class as often as it occurs.

    With a bias of 0 every pixel starts at one half, and the first steps are spent on unlearning that.

    Args:
        model: to be changed in place.
        areas: (n, C) pixels of each class in the training images.
        pixels: of all those images together.
    """
    present = areas > 0
    of_labels = np.concatenate([[present.any(1).mean()], present.mean(0)])
    with torch.no_grad():
        cast(nn.Parameter, model.get_submodule(_class_layer(model)).bias).copy_(
            _logits(areas.sum(0, dtype=np.float64) / pixels)
        )
        model.classification_head.linear.bias.copy_(_logits(of_labels))


def _class_layer(model: UnifiedModel) -> str:
    """The name of the segmentation head's last convolution, which has a row for each class; some have others before."""
    convolutions = [name for name, part in model.segmentation_head.named_modules() if isinstance(part, nn.Conv2d)]
    return f"segmentation_head.{convolutions[-1]}"


def _logits(frequencies: np.ndarray) -> torch.Tensor:
    """Of frequencies kept away from 0 and 1: a class that no training image has must still be learnable later."""
    clipped = torch.from_numpy(np.clip(frequencies, 1e-3, 1 - 1e-3))
    return torch.logit(clipped).float()


def initialise_weights(
    model: UnifiedModel, path: str, class_names: Sequence[str], expected: Normalisation | None = None
) -> tuple[EncoderWeights, Normalisation, tuple[LearnedFrom, ...]]:
    """Start `model` from the checkpoint at `path`: tensors of the same shape, the first convolution of another number
    of channels, and the heads class by class, by name. What else is left as it was is told of.

    Args:
        model: changed in place.
        path: or URL.
        class_names: of the model's classes.
        expected: what the weights expect of their inputs; None for what the checkpoint says.

    Returns:
        Where its encoder is from; what the network expects of its inputs from now on; and the checkpoint, with what it
        has seen.

    Raises:
        InputError: not a readable checkpoint, an ensemble, or a network that shares hardly anything with this.
    """
    data, told = read_file(path), told_url(path)
    checkpoint = parse_checkpoint(data, told)
    if checkpoint.members != 1:
        raise InputError(f"--init-from {told}: holds an ensemble of {checkpoint.members}; give one of its members")
    given = {name: tensor[0] for name, tensor in checkpoint.tensors.items()}
    places = {name: i for i, name in enumerate(checkpoint.class_names)}
    taken: dict[str, torch.Tensor] = {}
    constants: dict[str, torch.Tensor] = {}
    channels, class_layer = model.network.in_channels, f"{_class_layer(model)}."
    of_given = Normalisation(checkpoint.mean, checkpoint.std)
    inputs = of_given.for_channels(channels) if expected is None else check_channels(expected, channels, "the network")
    of_given = of_given if expected is None else expected.for_channels(checkpoint.network.in_channels)
    for name, own in model.state_dict().items():
        if name not in given:
            continue
        rows: list[int | None] | None = None
        if name.startswith(class_layer) or name == _RELIANCE:
            rows = [places.get(c) for c in class_names]
        elif name.startswith(_LABEL_HEAD):
            rows = [0, *(None if c not in places else 1 + places[c] for c in class_names)]
        if rows is not None:
            if own.shape[1:] == given[name].shape[1:] and len(own) == len(rows):
                taken[name] = _matched_rows(own, given[name], rows)
        elif given[name].shape == own.shape:
            taken[name] = given[name]
        elif name.startswith("encoder.") and _is_stem(own, given[name]):
            adapted, constant = adapt_stem(given[name], of_given, channels, inputs)
            taken[name], constants[name.removeprefix("encoder.")] = adapted, constant
    left = sorted(set(model.state_dict()) - set(taken))
    if len(left) > len(taken):
        raise InputError(
            f"--init-from {told}: its {checkpoint.network.architecture} with {checkpoint.network.encoder} shares too "
            f"little with this network ({len(left)} of {len(left) + len(taken)} tensors differ: {list_some(left, 2)})"
        )
    check_adaptable(model, constants)
    model.load_state_dict(taken, strict=False)
    add_constants(model, constants)
    if left:
        logger.warning(
            "WARNING: --init-from %s: %d of %d tensors of this network are not in it, or have another shape, and start "
            "anew: %s",
            *(told, len(left), len(left) + len(taken), list_some(left)),
        )
    known = [c for c in class_names if c in places]
    logger.info("started from %s: %d tensors, classes %s", told, len(taken), ", ".join(known) or "none in common")
    encoder = [name.startswith("encoder.") for name in taken].count(True)
    total = len(model.encoder.state_dict())
    digest = hashlib.sha256(data).hexdigest()
    weights = EncoderWeights(model.network.encoder, told, digest, inherited_licence(checkpoint), encoder, total)
    if encoder:
        tell_licence(weights.licence)
    return weights, inputs, (LearnedFrom(told, seen_folds(checkpoint.folds, checkpoint.provenance)),)


def _is_stem(own: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether these are first convolutions that differ in the number of image channels alone."""
    return (
        own.ndim == given.ndim == 4
        and {own.shape[1], given.shape[1]} == {1, 3}
        and (own.shape[0], *own.shape[2:]) == (given.shape[0], *given.shape[2:])
    )


def _matched_rows(own: torch.Tensor, given: torch.Tensor, sources: Sequence[int | None]) -> torch.Tensor:
    """`own` with row i replaced by `given`'s row `sources[i]`, where there is one."""
    rows = [own[i] if source is None else given[source] for i, source in enumerate(sources)]
    return torch.stack(rows)
