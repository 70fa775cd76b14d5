"""Networks with random weights that find something in noise, each something else."""

from typing import Any

import torch

from steel.checkpoint import Checkpoint
from steel.config import NetworkConfig
from steel.model.network import UnifiedModel


def make_member(seed: int, **changes: Any) -> Checkpoint:
    """For gray images and the two classes of `make_shards`."""
    torch.manual_seed(seed)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)
    tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
    return Checkpoint(network, ("class 1", "class 2"), (0.4,), (0.2,), tensors, **changes)
