"""A small folder of images, and a checkpoint that finds something in each, for tests of predictions of folders."""

from pathlib import Path

import cv2
import numpy as np
import torch

from steel.checkpoint import Checkpoint, save_checkpoint
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision
from steel.inference.writers import WRITERS
from steel.model.network import UnifiedModel

SIZES = {"a.jpg": (40, 48), "b.png": (33, 47), "line/c.png": (40, 48), "line/d.jpg": (20, 90), "Öl, 1.png": (31, 31)}
CLASSES = ("spot", "trace")
DECISION = Decision(classes=(ClassDecision(pixel_threshold=120), ClassDecision(min_area=30)), tta=("hflip",))
ALL = tuple(WRITERS)


def write_folder(root: Path) -> None:
    """`images/` with smooth noise, `model.safetensors`."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        image = cv2.GaussianBlur(rng.integers(0, 256, size, dtype=np.uint8), (5, 5), 1.5)
        (root / "images" / name).write_bytes(cv2.imencode(name[-4:], image)[1].tobytes())
    torch.manual_seed(0)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)
    tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
    save_checkpoint(root / "model.safetensors", Checkpoint(network, CLASSES, (0.4,), (0.2,), tensors, DECISION))
