"""First weights for a network's encoder: found, read, fitted, and told of."""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steel.checkpoint import Checkpoint, parse_checkpoint
from steel.checkpoint_header import parse_header
from steel.errors import InputError, list_some, told_url
from steel.model.libraries import timm
from steel.model.network import UnifiedModel
from steel.pretrained.files import WeightFile, parse_weights
from steel.pretrained.licences import RANDOM, is_permissive, licence_text, told_licence
from steel.pretrained.names import ENOUGH, Fit, fit_names, skipped_blocks, vit_from_torchvision
from steel.pretrained.sources import Source, read_source, timm_settings
from steel.pretrained.stem import Normalisation, adapt_stem, add_constant, check_channels
from steel.shards.split_roles import LearnedFrom, seen_folds

logger = logging.getLogger("train.fit")

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's weights expect, and most others."""
_HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_HALF_FAMILIES = ("inception", "xception", "timm-tf_efficientnet_lite")
"""Of smp's own encoders, those whose weights expect a mean and deviation of one half."""


@dataclass(frozen=True)
class EncoderWeights:
    """Where an encoder's first weights are from: for the checkpoint's provenance, and for people."""

    architecture: str
    source: str
    """Without the secrets of a URL, whatever it is given with."""
    sha256: str
    """Of the file."""
    licence: str
    """Of the weights, as their publisher says."""
    fitted: int
    """Tensors of the encoder that were found."""
    tensors: int
    """Tensors of the encoder."""

    def __post_init__(self) -> None:
        if not 0 <= self.fitted <= self.tensors:
            raise InputError(f"{self.fitted} of {self.tensors} tensors")
        object.__setattr__(self, "source", told_url(self.source))


@dataclass(frozen=True)
class _Given:
    """Weights on offer, of whatever origin."""

    tensors: Mapping[str, Tensor]
    licence: str
    expected: Normalisation | None
    """What they say that they expect, where they do."""
    told_by: str
    """What says so."""
    learned_from: tuple[LearnedFrom, ...] = ()
    """The checkpoint of this program that they are of, if it is one."""


def load_encoder(
    model: UnifiedModel, weights: str, expected: Normalisation | None = None
) -> tuple[EncoderWeights, Normalisation, tuple[LearnedFrom, ...]]:
    """Fill the encoder of `model`.

    Args:
        model: changed in place.
        weights: `hub`, a path or a URL, as `--model.weights`.
        expected: what the weights expect of their inputs; None for what they or their publishers say.

    Returns:
        Where they are from; what the network expects of its inputs from now on; and the checkpoint of this program that
        they are of, if it is one.

    Raises:
        InputError: not to be had, not to be read, or of another encoder.
    """
    name = model.network.encoder
    source = read_source(weights, name)
    file = parse_weights(source.data, f"model.weights {source.name}")
    if file.is_checkpoint:
        given = _of_checkpoint(parse_checkpoint(source.data, source.name), source.name)
    else:
        given = _of_file(source, file, asks_inputs=expected is None)
    own = model.encoder.state_dict()
    fit = fit_names(own, given.tensors, _converter(name))
    _check_fit(fit, source.name, name)
    inputs = _fill(model, fit, expected, given.expected or _usual(name))
    licence = given.licence if given.licence != licence_text(None) else licence_text(told_licence(name, source.name))
    told = EncoderWeights(name, source.name, file.sha256, licence, len(fit.taken), len(fit.taken) + len(fit.missing))
    _tell(told, fit)
    given_by = given.told_by if given.expected else f"what is usual for {name}"
    _tell_inputs(inputs, given_by if expected is None else "--model.mean and --model.std")
    return told, inputs, given.learned_from


def own_header(weights: str, encoder: str) -> dict[str, Any] | None:
    """The header of the checkpoint of this program that `--model.weights` names; None where they are others'.

    Raises:
        InputError: not to be had, or not to be read.
    """
    if weights in ("hub", "none"):
        return None
    source = read_source(weights, encoder)
    if not parse_weights(source.data, f"model.weights {source.name}").is_checkpoint:
        return None
    return parse_header(source.name, source.data[:8], source.data[8:], len(source.data))


def _of_checkpoint(checkpoint: Checkpoint, source: str) -> _Given:
    if checkpoint.members != 1:
        raise InputError(f"model.weights: holds an ensemble of {checkpoint.members}; give one of its members")
    tensors = {
        name.removeprefix("encoder."): tensor
        for name, tensor in checkpoint.member_state(0).items()
        if name.startswith("encoder.")
    }
    expected = Normalisation(checkpoint.mean, checkpoint.std)
    learned_from = (LearnedFrom(source, seen_folds(checkpoint.folds, checkpoint.provenance)),)
    return _Given(tensors, inherited_licence(checkpoint), expected, source, learned_from)


def inherited_licence(checkpoint: Checkpoint) -> str:
    """Of the weights that a checkpoint of ours was itself trained from."""
    former = checkpoint.provenance.get("encoder_weights", {})
    if former is None:
        return RANDOM
    return str(former.get("licence") or licence_text(None)) if isinstance(former, Mapping) else licence_text(None)


def _of_file(source: Source, file: WeightFile, *, asks_inputs: bool) -> _Given:
    """`asks_inputs` is False where it does not matter what stands beside the file about them."""
    settings = source.settings
    licence = file.metadata.get("license") or file.metadata.get("licence") or settings.licence
    return _Given(file.tensors, licence_text(licence), settings.inputs() if asks_inputs else None, settings.place)


def _usual(encoder: str) -> Normalisation:
    """What the weights published under an encoder's name expect."""
    settings = timm_settings(encoder)
    if settings.get("mean") and settings.get("std"):
        return Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    return _HALF if encoder.startswith(_HALF_FAMILIES) else IMAGENET


def _converter(encoder: str) -> Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None:
    """timm's own translation of the names in other publications, where it has one for this encoder."""
    name = encoder.removeprefix("tu-").partition(".")[0]
    if not encoder.startswith("tu-"):
        return None
    module = sys.modules[timm.models.model_entrypoint(name).__module__]
    of_state, of_names = (getattr(module, it, None) for it in ("checkpoint_filter_fn", "_filter_fn"))
    if of_state is None and of_names is None:
        return None

    def convert(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
        try:
            if of_state is None:
                converted = of_names(tensors)  # type: ignore[misc]
            else:
                with torch.device("meta"):
                    whole = timm.create_model(name)
                converted = of_state(vit_from_torchvision(tensors), whole)
            return {name: tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)}
        except Exception:  # of a file that is not what it expects
            return {}

    return convert


def _check_fit(fit: Fit, source: str, encoder: str) -> None:
    if fit.share < ENOUGH:
        number = len(fit.taken) + len(fit.missing)
        raise InputError(
            f"model.weights {source}: fits {len(fit.taken)} of the {number} tensors of encoder {encoder!r} "
            f"({100 * fit.share:.0f} %); it lacks {list_some(fit.missing, 2)} and has "
            f"{list_some(fit.left_over, 2) or 'no others'}: name the encoder that it is for"
        )
    skipped = skipped_blocks(fit)
    if skipped:
        raise InputError(
            f"model.weights {source}: of a deeper encoder than {encoder!r}, with {list_some(skipped, 2)} between what "
            "fits: name the encoder that it is for"
        )
    broken = [theirs for theirs in fit.taken.values() if not fit.given[theirs].isfinite().all()]
    if broken:
        raise InputError(
            f"model.weights {source}: {list_some(broken, 2)} with numbers that are not finite: get the file once more, "
            "or take another"
        )


def _fill(model: UnifiedModel, fit: Fit, wanted: Normalisation | None, usual: Normalisation) -> Normalisation:
    """Copy what fits; what the network then expects of its inputs: as `wanted` by the user, or `usual`."""
    encoder, channels = model.encoder, model.network.in_channels
    own: dict[str, Tensor] = encoder.state_dict()
    stems = [n for n, theirs in fit.taken.items() if own[n].squeeze().shape != fit.given[theirs].squeeze().shape]
    given_channels = fit.given[fit.taken[stems[0]]].shape[1] if stems else channels
    told = usual if wanted is None else check_channels(wanted, given_channels, "the file")
    expected = told.for_channels(given_channels)
    inputs = expected.for_channels(channels)
    constants: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, theirs in fit.taken.items():
            tensor = fit.given[theirs]
            if name in stems:
                tensor, constants[name] = adapt_stem(tensor, expected, channels, inputs)
            own[name].copy_(tensor.reshape(own[name].shape))
    add_constants(model, constants)
    return inputs


def add_constants(model: UnifiedModel, constants: Mapping[str, Tensor]) -> None:
    """Add what `adapt_stem` gave to what the encoder's convolutions give.

    Args:
        model: changed in place.
        constants: by the names of the weights in the encoder's state dict.
    """
    side, own = -(-128 // model.stride) * model.stride, model.encoder.state_dict()
    for name, constant in constants.items():
        example = torch.zeros(1, model.network.in_channels, side, side, dtype=own[name].dtype)
        add_constant(model.encoder, name, constant, example)


def _tell(weights: EncoderWeights, fit: Fit) -> None:
    logger.info(
        "encoder weights: %d of %d tensors of %s from %s, %s; sha256 %s",
        weights.fitted, weights.tensors, weights.architecture, weights.source, fit.how, weights.sha256[:12],
    )  # fmt: skip
    if fit.missing:
        logger.warning("encoder weights: not in the file, so random: %s", ", ".join(fit.missing))
    if fit.left_over:
        logger.info("encoder weights: in the file, but not in the encoder: %s", ", ".join(fit.left_over))
    tell_licence(weights.licence)


def _tell_inputs(inputs: Normalisation, told_by: str) -> None:
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (inputs.mean, inputs.std))
    logger.info("encoder weights: inputs are normalised by mean %s and deviation %s, after %s", mean, std, told_by)


def tell_licence(licence: str) -> None:
    """Say under what licence an encoder's weights are, louder where it asks for more than to be named, or is not
    known."""
    if is_permissive(licence):
        logger.info("encoder weights: licence %s", licence)
    elif licence == licence_text(None):
        logger.warning("encoder weights: licence %s before you hand on what is trained from it", licence)
    else:
        logger.warning(
            "encoder weights: licence %s: not this project's; read it before you hand on what is trained from them",
            licence,
        )
