"""Classifiers of timm as files of weights, networks to take them, and what each says of images."""

from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from steel.config import NetworkConfig
from steel.model.network import UnifiedModel, normalise
from steel.pretrained.stem import Normalisation
from tests.as_if_trained import trained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Normalisation(MEAN, STD)


def classifier(name: str) -> nn.Module:
    torch.manual_seed(5)
    return trained(timm.create_model(name))


def network(encoder: str, channels: int = 3, **more: Any) -> UnifiedModel:
    torch.manual_seed(7)
    return UnifiedModel(NetworkConfig("Unet", encoder, 1, channels, **more)).eval()


def save(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> str:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return str(path)


def image(channels: int, size: tuple[int, int] = (96, 128)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randint(0, 256, (2, channels, *size), dtype=torch.uint8, generator=generator)


def features_of_timm(model: nn.Module, pixels: torch.Tensor, mean: Any, std: Any) -> list[torch.Tensor]:
    """What a classifier has after each stage for uint8 images, by timm's own means; the publisher's normalisation."""
    inputs = (pixels.float() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with torch.no_grad():
        return model.forward_intermediates(inputs, intermediates_only=True)


def features_of_ours(model: UnifiedModel, pixels: torch.Tensor, inputs: Normalisation) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(model.encoder(normalise(pixels, inputs.mean, inputs.std)))


def assert_same_features(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    by_shape = {feature.shape: feature for feature in ours}
    for feature in theirs:
        torch.testing.assert_close(by_shape[feature.shape], feature, rtol=1e-4, atol=1e-4)
        assert feature.std() > 1e-3  # it says something
