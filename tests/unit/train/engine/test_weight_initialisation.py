"""First weights from an earlier checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from steel.config import NetworkConfig
from steel.errors import InputError
from steel.model.architectures import ARCHITECTURES
from steel.model.network import UnifiedModel
from steel.pretrained.stem import Normalisation
from train.engine.weight_initialisation import initialise_weights, start_heads_at_frequencies


def build(
    names: tuple[str, ...], encoder: str = "resnet18", channels: int = 1, widths: tuple[int, ...] = (16, 8, 8)
) -> UnifiedModel:
    return UnifiedModel(NetworkConfig("Unet", encoder, len(names), channels, widths))


def save(path: Path, model: UnifiedModel, names: tuple[str, ...], members: int = 1) -> str:
    tensors = {k: torch.stack([v] * members) for k, v in model.state_dict().items()}
    channels = model.network.in_channels
    mean, std = ((0.5,), (0.2,)) if channels == 1 else ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    save_checkpoint(path, Checkpoint(model.network, names, mean, std, tensors))
    return str(path)


def test_heads_follow_the_names_of_the_classes(tmp_path: Path) -> None:
    old, new = build(("spot", "scratch")), build(("patch", "scratch", "spot"))
    with torch.no_grad():
        old.classification_head.reliance.copy_(torch.tensor([2.0, 3.0]))
    before = {k: v.clone() for k, v in new.state_dict().items()}
    path = save(tmp_path / "old.safetensors", old, ("spot", "scratch"))
    told, inputs, _ = initialise_weights(new, path, ("patch", "scratch", "spot"))
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


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
@pytest.mark.parametrize("given", [None, Normalisation((0.6,), (0.3,))])
def test_a_network_of_other_channels_says_the_same_of_gray_images(
    before: int, after: int, given: Normalisation | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """But at the border, where padding stands for a gray that is another in each channel."""
    old, new = build(("a", "b"), channels=before).eval(), build(("a", "b"), channels=after).eval()
    path = save(tmp_path / "old.safetensors", old, ("a", "b"))
    told, inputs, _ = initialise_weights(new, path, ("a", "b"), given)
    of_old = load_checkpoint(path)
    expected = Normalisation(of_old.mean, of_old.std) if given is None else given.for_channels(before)
    assert inputs == expected.for_channels(after) and told.fitted == told.tensors
    gray = torch.rand(1, 1, 64, 64)
    stems = []
    for model, of_inputs in ((old, expected), (new, inputs)):
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (of_inputs.mean, of_inputs.std))
        encoder = model.encoder
        with torch.no_grad():
            stems.append(encoder.bn1(encoder.conv1((gray.expand(-1, len(of_inputs.mean), -1, -1) - mean) / std)))
    torch.testing.assert_close(stems[1][..., 4:-4, 4:-4], stems[0][..., 4:-4, 4:-4], rtol=1e-4, atol=1e-4)
    assert not [record for record in caplog.records if "start anew" in record.getMessage()]


def test_what_is_left_as_it_began_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Heads for other classes are none of it; one of another width is."""
    path = save(tmp_path / "old.safetensors", build(("a", "b")), ("a", "b"))
    initialise_weights(build(("c",)), path, ("c",))
    assert not [record for record in caplog.records if "start anew" in record.getMessage()]
    new = build(("a", "b"), widths=(32, 8, 4))
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    initialise_weights(new, path, ("a", "b"))
    (line,) = [record.getMessage() for record in caplog.records if "start anew" in record.getMessage()]
    assert f"--init-from {path}: " in line and "start anew: decoder.blocks.0." in line
    assert new.segmentation_head[0].weight.equal(before["segmentation_head.0.weight"])
    left = [n for n, t in build(("a", "b")).state_dict().items() if t.shape != before[n].shape]
    assert "segmentation_head.0.weight" in left
    assert f" {len(left)} of {len(before)} tensors of this network" in line


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architectures_heads_start_at_the_frequencies(architecture: str) -> None:
    """With nothing but its biases left, a network says of each pixel how often the class occurs."""
    encoder = "tu-test_vit" if architecture == "DPT" else "tu-test_resnet"
    model = UnifiedModel(NetworkConfig(architecture, encoder, 2, 1)).eval()
    start_heads_at_frequencies(model, np.array([[100, 0], [0, 0], [300, 200], [0, 0]]), pixels=4000)
    with torch.no_grad():
        for name, tensor in model.segmentation_head.named_parameters():
            if name.endswith("weight"):
                tensor.zero_()
        probs = torch.sigmoid(model(torch.randn(1, 1, 64, 64))["segmentation"])
    torch.testing.assert_close(probs.mean((0, 2, 3)), torch.tensor([0.1, 0.05]))


def test_a_head_of_several_layers_follows_the_classes(tmp_path: Path) -> None:
    """DPT's has a convolution, and a normalisation, before the one with a row for each class."""
    network = NetworkConfig("DPT", "tu-test_vit", 2, 1)
    old, new = UnifiedModel(network), UnifiedModel(network)
    initialise_weights(new, save(tmp_path / "old.safetensors", old, ("a", "b")), ("b", "new"))
    theirs, ours = old.segmentation_head.state_dict(), new.segmentation_head.state_dict()
    assert ours["head.0.weight"].equal(theirs["head.0.weight"])
    assert ours["head.4.weight"][0].equal(theirs["head.4.weight"][1])
    assert not ours["head.4.weight"][1].equal(theirs["head.4.weight"][0])
