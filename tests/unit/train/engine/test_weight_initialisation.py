"""First weights from an earlier checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, save_checkpoint
from steel.config import NetworkConfig
from steel.errors import InputError
from steel.model.network import UnifiedModel
from steel.pretrained.stem import Normalisation
from train.engine.weight_initialisation import initialise_weights, start_heads_at_frequencies


def build(names: tuple[str, ...], encoder: str = "resnet18") -> UnifiedModel:
    return UnifiedModel(NetworkConfig("Unet", encoder, len(names), 1, (16, 8, 8)))


def save(path: Path, model: UnifiedModel, names: tuple[str, ...], members: int = 1) -> str:
    tensors = {k: torch.stack([v] * members) for k, v in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(model.network, names, (0.5,), (0.2,), tensors))
    return str(path)


def test_heads_follow_the_names_of_the_classes(tmp_path: Path) -> None:
    old, new = build(("spot", "scratch")), build(("patch", "scratch", "spot"))
    with torch.no_grad():
        old.classification_head.reliance.copy_(torch.tensor([2.0, 3.0]))
    before = {k: v.clone() for k, v in new.state_dict().items()}
    path = save(tmp_path / "old.safetensors", old, ("spot", "scratch"))
    told, inputs = initialise_weights(new, path, ("patch", "scratch", "spot"))
    assert (told.source, told.fitted) == (path, told.tensors) and inputs == Normalisation((0.5,), (0.2,))
    segmentation, labels = new.segmentation_head[0].weight, new.classification_head.linear.weight
    assert torch.equal(segmentation[1], old.segmentation_head[0].weight[1])
    assert torch.equal(segmentation[2], old.segmentation_head[0].weight[0])
    assert torch.equal(segmentation[0], before["segmentation_head.0.weight"][0])
    assert torch.equal(labels[0], old.classification_head.linear.weight[0])  # any defect
    assert torch.equal(labels[2], old.classification_head.linear.weight[2])
    assert torch.equal(labels[1], before["classification_head.linear.weight"][1])
    assert new.classification_head.reliance.tolist() == [0, 3, 2]
    assert torch.equal(new.encoder.conv1.weight, old.encoder.conv1.weight)


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "old.safetensors", build(("a",)), ("a",))
    with pytest.raises(InputError, match="shares too little"):
        initialise_weights(build(("a",), encoder="tu-mobilenetv3_small_050"), path, ("a",))


def test_an_ensemble_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "old.safetensors", build(("a",)), ("a",), members=2)
    with pytest.raises(InputError, match="ensemble of 2"):
        initialise_weights(build(("a",)), path, ("a",))


def test_heads_start_at_the_frequencies_of_the_data() -> None:
    model = build(("spot", "scratch"))
    areas = np.array([[100, 0], [0, 0], [300, 0], [0, 0]])
    start_heads_at_frequencies(model, areas, pixels=4000)
    with torch.no_grad():
        masks = torch.sigmoid(model.segmentation_head[0].bias)
        labels = torch.sigmoid(model.classification_head.linear.bias)
    assert torch.allclose(masks, torch.tensor([0.1, 0.001]))  # never 0: the class must stay learnable
    assert torch.allclose(labels, torch.tensor([0.5, 0.5, 0.001]))
