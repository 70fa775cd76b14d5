"""A small network of random weights, images of noise for it, and predictions that must be the same to the last bit."""

from typing import Any

import numpy as np
import torch

from steel.checkpoint import Checkpoint
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision
from steel.inference.prediction import Prediction
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel

THREE = 3 * 32 * 40
"""Pixels of three images of 32x40 in a forward pass."""
DECISION = Decision(classes=(ClassDecision(pixel_threshold=120), ClassDecision(min_area=40)), tta=("hflip",))


def make_checkpoint(seed: int, in_channels: int = 1, **changes: Any) -> Checkpoint:
    torch.manual_seed(seed)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=in_channels, decoder_channels=(8, 8))
    values = {
        "network": network,
        "class_names": ("spot", "trace"),
        "mean": (0.4, 0.5, 0.6)[:in_channels],
        "std": (0.2, 0.25, 0.3)[:in_channels],
        "tensors": {name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()},
        "decision": DECISION,
    }
    return Checkpoint(**{**values, **changes})


def make_predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor.from_checkpoint(checkpoint, device="cpu", precision="no", pixels_per_pass=THREE)


def images(*sizes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]


def assert_same(left: Prediction, right: Prediction) -> None:
    for name in ("masks", "labels", "mask_probs", "label_probs"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
