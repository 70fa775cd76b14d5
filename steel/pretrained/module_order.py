"""In which order a library's network has its tensors: a safetensors file has their names alone, sorted.

Two libraries' names of one network agree in nothing but that order. So the network that the file is of is built once
more as its own library has it, without memory and without weights.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from steel.model.libraries import smp, timm


def module_orders(encoder: str) -> Iterator[tuple[str, ...]]:
    """Names of the tensors of what may be an encoder's network in timm, torchvision and smp, in its modules' order.

    Args:
        encoder: by smp's name, or by timm's behind `tu-`.
    """
    for build in (*_timms(encoder), *_torchvisions(encoder), *_smps(encoder)):
        try:
            with torch.device("meta"):
                network = build()
        except Exception:  # one that asks for numbers while it is built
            continue
        yield tuple(network.state_dict())


def _timms(encoder: str) -> Iterator[Callable[[], nn.Module]]:
    for name in timm.list_models():
        if _letters(name) == _letters(encoder):
            yield lambda name=name: timm.create_model(name)  # type: ignore[misc]


def _torchvisions(encoder: str) -> Iterator[Callable[[], nn.Module]]:
    """Of equal names, or of one that timm's goes on from, as `mobilenetv3_large_100` does."""
    from torchvision import models

    for name in models.list_models(models):
        if _letters(encoder).startswith(_letters(name)):
            yield lambda name=name: models.get_model(name, weights=None)  # type: ignore[misc]


def _smps(encoder: str) -> Iterator[Callable[[], nn.Module]]:
    for name in smp.encoders.encoders:
        if _letters(name) == _letters(encoder):
            yield lambda name=name: smp.encoders.get_encoder(name, weights=None)  # type: ignore[misc]


def _letters(name: str) -> str:
    """What the libraries' names of a network have in common: `timm-efficientnet-b3` is timm's `tf_efficientnet_b3`."""
    plain = name.removeprefix("tu-").removeprefix("timm-").partition(".")[0].replace("-", "_")
    return plain.removeprefix("tf_").replace("_", "")
