"""Folded BatchNorms: by hand, against the network itself in float64, and where nothing may be folded."""

import pytest
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from steel.config import NetworkConfig
from steel.model.folding import fold_batch_norms, shorten_weights
from steel.model.network import UnifiedModel


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def with_statistics(model: nn.Module) -> nn.Module:
    """As after training: fresh ones change nothing."""
    torch.manual_seed(0)
    for norm in norms(model):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
    return model.eval()


class Small(nn.Module):
    """What `fold_batch_norms` asks of a network, for any layers."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm or nn.BatchNorm2d(2)

    def small_images(self) -> Tensor:
        return torch.zeros(1, 1, 4, 5)

    def forward_padded(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))


class ReadTwice(Small):
    def forward_padded(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return self.norm(made) + made


class RunsTwice(Small):
    def forward_padded(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) + self.conv(images.flip(2))


class NormRunsTwice(Small):
    def forward_padded(self, images: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(images)))


def test_by_hand() -> None:
    """One channel: the convolution says 2x + 3, its BatchNorm 5 * (that - 7) / 4 + 1, so both say 2.5x - 4."""
    model = Small(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    conv, norm = model.conv, model.norm
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    for tensor, value in ((conv.weight, 2), (conv.bias, 3), (norm.weight, 5), (norm.bias, 1)):
        nn.init.constant_(tensor, value)
    norm.running_mean.fill_(7)
    norm.running_var.fill_(16)
    folded = fold_batch_norms(model)  # type: ignore[arg-type]
    assert (folded.conv.weight.item(), folded.conv.bias.item()) == (2.5, -4.0)
    assert not norms(folded)
    assert (conv.weight.item(), conv.bias.item()) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("architecture", "encoder", "left"),
    [
        ("Unet", "tu-test_resnet", 0),
        ("Unet", "efficientnet-b0", 0),  # convolutions of its own, which pad
        ("Unet", "tu-tf_efficientnet_lite0", 0),  # BatchNorms with an activation inside
        ("FPN", "resnet18", 0),
        ("Segformer", "mit_b0", 0),
        ("Linknet", "resnet18", 5),  # transposed convolutions
        ("Unet", "densenet121", 62),  # BatchNorms that read what others read, too
    ],
)
def test_a_folded_network_says_the_same(architecture: str, encoder: str, left: int) -> None:
    """In float64, where only the order of operations differs."""
    model = with_statistics(UnifiedModel(NetworkConfig(architecture, encoder, 2, 1))).double()
    assert isinstance(model, UnifiedModel)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norms(model)
    assert len(norms(folded)) == left < len(norms(model))
    images = torch.randn(2, 1, 96, 128, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = model.forward_padded(images), folded.forward_padded(images)
    for head, logits in expected.items():
        torch.testing.assert_close(found[head], logits, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "model",
    [
        ReadTwice(nn.Conv2d(1, 2, 3)),
        RunsTwice(nn.Conv2d(1, 2, 3)),
        NormRunsTwice(nn.Conv2d(1, 2, 3)),
        Small(StdConv2d(1, 2, 3)),
        Small(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)),
        Small(nn.ConvTranspose2d(1, 2, 3)),
    ],
    ids=["read twice", "runs twice", "norm runs twice", "standardised", "no statistics", "transposed"],
)
def test_what_cannot_be_folded_stays(model: Small) -> None:
    if model.norm.running_var is not None:
        with_statistics(model)
    model.eval()
    folded = fold_batch_norms(model)  # type: ignore[arg-type]
    assert len(norms(folded)) == 1
    images = torch.randn(3, 1, 6, 7)
    torch.testing.assert_close(folded.forward_padded(images), model.forward_padded(images), rtol=0, atol=0)


def test_without_weights_and_in_training() -> None:
    """A BatchNorm may have no weights; the network goes on training as it did."""
    model = Small(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2, affine=False)).train()
    model.norm.running_mean.fill_(0.5)
    model.norm.running_var.fill_(4.0)
    folded = fold_batch_norms(model)  # type: ignore[arg-type]
    assert not folded.training and model.training and model.norm.training
    images = torch.randn(3, 1, 6, 7)
    torch.testing.assert_close(folded.forward_padded(images), (model.conv(images) - 0.5) / (4 + 1e-5) ** 0.5)
    assert model.norm.num_batches_tracked.item() == 0


@pytest.mark.parametrize("architecture", ["Unet", "FPN"])
def test_weights_that_are_shortened_once_say_what_autocast_makes_of_them(architecture: str) -> None:
    torch.manual_seed(0)
    options = {"decoder_channels": (8, 8)} if architecture == "Unet" else {}
    network = with_statistics(UnifiedModel(NetworkConfig(architecture, "tu-test_resnet", 3, 1, **options)))
    usual, short = fold_batch_norms(network), fold_batch_norms(network)
    shorten_weights(short, torch.bfloat16)
    kept = {name: value.dtype for name, value in short.state_dict().items() if value.is_floating_point()}
    assert {kept[name] for name in kept if name.startswith("encoder") and name.endswith("conv1.weight")} == {
        torch.bfloat16
    }
    assert {kept[name] for name in kept if "head" in name} == {torch.float32}
    images = torch.rand(2, 1, 64, 96)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected, found = usual(images), short(images)
    for head, logits in expected.items():
        assert logits.dtype == found[head].dtype
        assert torch.equal(logits, found[head])


def test_layers_that_make_their_weights_of_others_keep_them() -> None:
    model = nn.Module()
    model.encoder = nn.Sequential(StdConv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2, 2), nn.BatchNorm2d(2))
    model.decoder, model.head = nn.ConvTranspose2d(2, 2, 2), nn.Conv2d(2, 1, 1)
    model.double()
    shorten_weights(model, torch.float32)  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    shorten_weights(model.float(), torch.bfloat16)  # type: ignore[arg-type]
    assert [layer.weight.dtype == torch.bfloat16 for layer in model.encoder] == [False, True, True, False]
    assert model.decoder.weight.dtype == model.head.weight.dtype == torch.float32
