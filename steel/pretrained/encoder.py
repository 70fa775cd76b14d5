"""First weights for a network's encoder: found, read, fitted, and told of."""

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from steel.checkpoint import Checkpoint, parse_checkpoint
from steel.checkpoint_header import parse_header
from steel.errors import InputError, list_some, told_url
from steel.model.libraries import timm
from steel.model.network import UnifiedModel
from steel.pretrained.files import WeightFile, parse_weights
from steel.pretrained.licences import RANDOM, family_licence, is_permissive, licence_text, told_licence
from steel.pretrained.module_order import module_orders
from steel.pretrained.names import ENOUGH, Fit, fit_names, is_torchvisions, skipped_blocks, vit_from_torchvision
from steel.pretrained.sources import Source, read_source, timm_settings
from steel.pretrained.stem import Normalisation, adapt_stem, add_constant, check_channels
from steel.shards.split_roles import LearnedFrom, seen_folds

logger = logging.getLogger("train.fit")

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's weights expect, and most others."""
_HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_HALF_FAMILIES = ("inception", "xception", "timm-tf_efficientnet_lite")
"""Of smp's own encoders, those whose weights expect a mean and deviation of one half."""
_HALF_OF_TORCHVISION = "efficientnetv2_l"
"""In timm's name of it, the one network of torchvision that is of Inception's mean and deviation."""
_AVERAGED = re.compile(r"(?<![a-z])(?:ema|swa|teacher)(?![a-z])")
"""In the place of averaged weights in a file: timm's `model_ema`, DINO's `teacher`."""
_OPTIMISER = re.compile("optim")
"""In the place of what an optimiser keeps of each weight, under its name and in its shape."""


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

    states: Mapping[str, Mapping[str, Tensor]]
    """Sets of tensors by where they are in the file."""
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
    fit = _best_fit(own, given.states, name)
    _check_fit(fit, source.name, name)
    _check_stem(model.encoder, fit, source.name, name)
    usual, whose = (given.expected, given.told_by) if given.expected else usual_inputs(name, given.states[fit.place])
    inputs = _fill(model, fit, expected, usual)
    licence = given.licence if given.licence != licence_text(None) else licence_text(licence_of_file(name, source.name))
    told = EncoderWeights(name, source.name, file.sha256, licence, len(fit.taken), len(fit.taken) + len(fit.missing))
    _tell(told, fit)
    _tell_inputs(inputs, whose if expected is None else "--model.mean and --model.std")
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
    return _Given({"": tensors}, inherited_licence(checkpoint), expected, source, learned_from)


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
    return _Given(file.states, licence_text(licence), settings.inputs() if asks_inputs else None, settings.place)


def licence_of_file(encoder: str, source: str) -> str | None:
    """The key of the licence of weights that say nothing of it; of a family's encoder as timm has it for its tag, as
    others have published some of them, too."""
    published = timm_settings(encoder).get("license") if family_licence(encoder) else None
    return published or told_licence(encoder, source)


def usual_inputs(encoder: str, names: Collection[str]) -> tuple[Normalisation, str]:
    """What weights with tensors of these names expect, where they say nothing of it, and after what: torchvision's, or
    those that are published under the encoder's name."""
    if is_torchvisions(names):
        return (_HALF if _HALF_OF_TORCHVISION in encoder else IMAGENET), "what torchvision's weights expect"
    settings, told_by = timm_settings(encoder), f"what is usual for {encoder}"
    if settings.get("mean") and settings.get("std"):
        return Normalisation(tuple(settings["mean"]), tuple(settings["std"])), told_by
    return (_HALF if encoder.startswith(_HALF_FAMILIES) else IMAGENET), told_by


def _best_fit(
    own: Mapping[str, Tensor],
    states: Mapping[str, Mapping[str, Tensor]],
    encoder: str,
) -> Fit:
    """Of several sets of tensors the one that fits best; of equal ones the averaged weights, which are what a training
    program that keeps them ships, and what an optimiser keeps last."""
    places = sorted(states, key=lambda place: (bool(_OPTIMISER.search(place)), not _AVERAGED.search(place)))
    convert = _converter(encoder)
    fits = (fit_names(own, states[place], convert, module_orders(encoder)) for place in places)
    return max((replace(fit, place=place) for fit, place in zip(fits, places, strict=True)), key=lambda fit: fit.share)


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


def _check_stem(network: nn.Module, fit: Fit, source: str, encoder: str) -> None:
    """Refuse weights that lack the first convolution, through which all others see an image: behind a random one they
    are worth little, however many fit."""
    first, stem = next(
        (f"{name}.weight", part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d)
    )
    if first not in fit.missing:
        return
    shape = stem.weight.shape
    alike = [
        f"{name} takes {tensor.shape[1]} channels"
        for name, tensor in fit.given.items()
        if name in fit.left_over and tensor.ndim == 4 and (tensor.shape[0], tensor.shape[2:]) == (shape[0], shape[2:])
    ]
    raise InputError(
        f"model.weights {source}: has no first convolution, of 1 or 3 channels, for encoder {encoder!r} "
        f"({'; '.join(alike[:1]) or f'{first} of shape {list(shape)} is not in it'}); its other weights are worth "
        "little behind a random one"
    )


def _fill(model: UnifiedModel, fit: Fit, wanted: Normalisation | None, usual: Normalisation) -> Normalisation:
    """Copy what fits; what the network then expects of its inputs: as `wanted` by the user, or `usual`."""
    encoder, channels = model.encoder, model.network.in_channels
    own: dict[str, Tensor] = encoder.state_dict()
    stems = [n for n, theirs in fit.taken.items() if own[n].squeeze().shape != fit.given[theirs].squeeze().shape]
    check_adaptable(model, stems)
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


def check_adaptable(model: UnifiedModel, stems: Collection[str]) -> None:
    """Refuse to change the number of channels of convolutions that standardise their weights in each pass: these are
    made anew of all channels, so that no weights of other channels say the same.

    Args:
        model: with the encoder.
        stems: names of the convolutions' weights in the encoder's state dict.

    Raises:
        InputError: names one.
    """
    for name in stems:
        if isinstance(model.encoder.get_submodule(name.rpartition(".")[0]), _standardising()):
            raise InputError(
                f"model.in-channels {model.network.in_channels}: the first convolution of encoder "
                f"{model.network.encoder!r} standardises its weights, which are of another number of channels; give "
                f"--model.in-channels {4 - model.network.in_channels}"
            )


def _standardising() -> tuple[type, ...]:
    layers = timm.layers
    return layers.StdConv2d, layers.StdConv2dSame, layers.ScaledStdConv2d, layers.ScaledStdConv2dSame


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
    source = f"{fit.place} in {weights.source}" if fit.place else weights.source
    logger.info(
        "encoder weights: %d of %d tensors of %s from %s, %s; sha256 %s",
        weights.fitted, weights.tensors, weights.architecture, source, fit.how, weights.sha256[:12],
    )  # fmt: skip
    if fit.missing:
        logger.warning("encoder weights: not in the file, or in another shape, so random: %s", ", ".join(fit.missing))
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
