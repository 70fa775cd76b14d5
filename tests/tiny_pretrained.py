"""The network and the first weights of comparisons on pretrained encoders, at a size that trains in seconds."""

from pathlib import Path

import pytest
import torch

from bench.quality import pretrained
from steel.config import NetworkConfig
from steel.model.network import UnifiedModel

ENCODER, DECODER = "tu-test_resnet", (8, 8, 8, 8, 8)


def make_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The comparisons take a tiny network of two classes from now on; the file of its encoder's weights."""
    monkeypatch.setattr(pretrained, "ENCODER", ENCODER)
    monkeypatch.setattr(pretrained, "DECODER", DECODER)
    torch.manual_seed(1)
    weights = folder / "weights.pth"
    torch.save(UnifiedModel(NetworkConfig("Unet", ENCODER, 2, 1, DECODER)).encoder.state_dict(), weights)
    return weights
