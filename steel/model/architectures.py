"""Encoders and decoders of segmentation-models-pytorch: which there are, and how one is built."""

import difflib
import inspect
import warnings
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steel.config import NetworkConfig
from steel.errors import InputError, list_some
from steel.model.libraries import smp, timm

ARCHITECTURES = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}

EXTRA_STRIDE = {"PAN": 8, "DPT": 2}
"""What these decoders need beyond the encoder's stride: PAN halves the last feature three times, DPT once."""

MISFIT_ERRORS = (ValueError, KeyError, TypeError, RuntimeError, AssertionError, IndexError, AttributeError)
"""What smp and timm raise when an encoder, a depth and a decoder do not go together."""


def check_architecture(network: NetworkConfig) -> None:
    """Raises InputError for an architecture or encoder that there is not, or widths that it does not take."""
    if network.architecture not in ARCHITECTURES:
        raise InputError(
            f"model.architecture: {network.architecture!r} is unknown; choose one of {', '.join(ARCHITECTURES)}"
        )
    if network.decoder_channels is not None and not _takes_widths(network.architecture):
        raise InputError(
            f"model.decoder-channels: {network.architecture} takes no list of decoder widths; "
            f"give None or choose one of {', '.join(filter(_takes_widths, ARCHITECTURES))}"
        )
    _check_encoder(network.encoder)


def _takes_widths(architecture: str) -> bool:
    """Whether `decoder_channels` is a list there, one width per stage; elsewhere it is one number or missing."""
    parameter = inspect.signature(ARCHITECTURES[architecture]).parameters.get("decoder_channels")
    return parameter is not None and not isinstance(parameter.default, int)


def _check_encoder(name: str) -> None:
    own = smp.encoders.get_encoder_names()
    if name in own:
        return
    if name.startswith("tu-"):
        if timm.is_model(name.removeprefix("tu-")):
            return
        near = [
            f"tu-{n}" for n in difflib.get_close_matches(name.removeprefix("tu-").split(".")[0], timm.list_models())
        ]
    else:
        near = difflib.get_close_matches(name, own)
    choice = f"did you mean {', '.join(near)}? Others: {list_some(own, 10)}" if near else f"choose of {', '.join(own)}"
    raise InputError(f"model.encoder: {name!r} is unknown; {choice}, or tu-NAME for any timm model NAME")


def build_parts(network: NetworkConfig, *, draw_weights: bool = True) -> Any:
    """The smp model, with random weights, or with what memory happened to hold where none are drawn."""
    kind = ARCHITECTURES[network.architecture]
    options: dict[str, Any] = {}
    if network.decoder_channels is not None:
        options = {"decoder_channels": network.decoder_channels, "encoder_depth": len(network.decoder_channels)}
    if network.architecture == "DPT":
        options["dynamic_img_size"] = True  # vision transformers are built for one size otherwise
    with warnings.catch_warnings(), _SparedDraws(parameters=not draw_weights):
        warnings.simplefilter("ignore")  # smp deprecates some encoder names that are the user's to choose
        return kind(
            encoder_name=network.encoder,
            encoder_weights=None,
            in_channels=network.in_channels,
            classes=network.num_classes,
            **options,
        )


_DRAWS = {"uniform_", "normal_", "kaiming_uniform_", "erfinv_"}
"""What fills a tensor with random numbers, alone or as a step of it: Tensor's own methods, which all of `nn.init` and
timm end in, and what of `nn.init` torch hands to a mode."""


class _SparedDraws(TorchFunctionMode):
    """Random numbers that nobody would see are not drawn.

    smp builds timm's encoders on the meta device first, to see their strides: what would change the values of a tensor
    that has none does nothing. Random numbers for weights that are not there are torch's compiler's business, which
    takes longer to import than all that a prediction needs.
    """

    def __init__(self, *, parameters: bool) -> None:
        """`parameters`: nor are those of parameters, all of which will be loaded. Buffers, which a file need not have,
        get theirs."""
        super().__init__()
        self._parameters = parameters

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
        is_in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if first is not None and is_in_place:
            is_loaded = self._parameters and func.__name__ in _DRAWS and isinstance(first, nn.Parameter)
            if first.is_meta or is_loaded:
                return first
        return func(*args, **kwargs)


def misfit(network: NetworkConfig, error: Exception) -> InputError:
    """What is told of an error of `MISFIT_ERRORS`."""
    depth = "" if network.decoder_channels is None else f" at depth {len(network.decoder_channels)}"
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"model: {network.architecture} cannot be built on encoder {network.encoder!r}{depth} ({reason}); "
        "choose another encoder or architecture"
    )
