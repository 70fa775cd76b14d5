"""The presets' encoders take the weights that their publishers have, by their names, and say of gray what these say."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from steel.config import Config, NetworkConfig
from steel.model.network import UnifiedModel, normalise
from steel.pretrained.encoder import load_encoder
from steel.pretrained.stem import Normalisation
from tests.as_if_trained import trained
from train.presets import ENCODERS, SEVERSTAL

INPUTS = Normalisation((0.45,) * 3, (0.25,) * 3)
"""Alike in all channels: then a padded border is gray, too, and one channel is exact there."""


def published(encoder: str) -> nn.Module:
    """A network with names and shapes of the published file: timm's whole classifier, or smp's encoder."""
    torch.manual_seed(5)
    if encoder.startswith("tu-"):
        return trained(timm.create_model(encoder.removeprefix("tu-"), pretrained=False))
    return trained(smp.encoders.get_encoder(encoder, in_channels=3, depth=5, weights=None))


def network(preset: Config, channels: int) -> UnifiedModel:
    torch.manual_seed(7)
    model = preset.model
    config = NetworkConfig(model.architecture, model.encoder, 1, channels)
    return UnifiedModel(replace(config, decoder_channels=model.decoder_channels)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("preset", [SEVERSTAL, *ENCODERS], ids=lambda preset: preset.preset)
def test_published_names_fit_and_gray_is_one_channel(preset: Config, tmp_path: Path) -> None:
    theirs = published(preset.model.encoder)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, path)

    three, one = network(preset, 3), network(preset, 1)
    for model in (three, one):
        told, _, _ = load_encoder(model, str(path), INPUTS)
        assert told.fitted == told.tensors > 50
    own = [*three.encoder.state_dict().values()]
    unclaimed = [*theirs.state_dict().values()]
    for tensor in own:  # none is a random one of ours
        assert any(tensor.shape == each.shape and torch.equal(tensor, each) for each in unclaimed)

    gray = torch.randint(0, 256, (2, 1, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(11))
    inputs = normalise(gray, INPUTS.mean[:1], INPUTS.std[:1])
    with torch.inference_mode():
        expected = three.encoder(inputs.expand(-1, 3, -1, -1))
        found = one.encoder(inputs)
    for ours, of_three in zip(_flat(found)[1:], _flat(expected)[1:], strict=True):  # the first may be the image itself
        scale = of_three.std().item()
        assert scale > 1e-3
        torch.testing.assert_close(ours, of_three, rtol=1e-4, atol=1e-3 * scale)


def _flat(features: object) -> list[torch.Tensor]:
    """A ViT has class tokens beside its features; others have stages without channels before their first."""
    if isinstance(features, torch.Tensor):
        return [features] if features.numel() else []
    assert isinstance(features, list | tuple)
    return [tensor for each in features if each is not None for tensor in _flat(each)]
