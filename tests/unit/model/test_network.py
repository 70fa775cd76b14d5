"""The network: any architecture and size, clear refusals, and a classification head that sees its own pooling."""

import copy
import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import NetworkConfig
from steel.errors import InputError
from steel.model.architectures import ARCHITECTURES, build_parts
from steel.model.heads import HEADS, ClassificationHead, Features, HeadKind, HeadShape
from steel.model.network import (
    UnifiedModel,
    _reached,
    drop_gradients,
    normalise,
    reflect_to_stride,
    set_encoder_trainable,
)

SMALL = NetworkConfig("Unet", "resnet18", num_classes=3, in_channels=1, decoder_channels=(16, 8, 8))


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return UnifiedModel(SMALL).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_any_size_and_trains_all_it_has(architecture):
    encoder = "tu-test_vit" if architecture == "DPT" else "tu-test_resnet"
    in_channels = 3 if architecture == "FPN" else 1
    model = UnifiedModel(NetworkConfig(architecture, encoder, num_classes=2, in_channels=in_channels))
    masks, labels = model(torch.randn(2, in_channels, 70, 133)).values()
    assert masks.shape == (2, 2, 70, 133)
    assert labels.shape == (2, 3)
    (masks.mean() + labels.mean()).backward()
    # DDP waits for each of these.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-b0", "mit_b0", "tu-mobilenetv3_small_050"])
def test_stages_that_reach_no_output_are_removed(encoder):
    shallow = UnifiedModel(NetworkConfig("Unet", encoder, 1, 1, decoder_channels=(8, 8, 8)))
    assert shallow.stride == 8
    masks, labels = shallow(torch.randn(2, 1, 32, 40)).values()
    (masks.mean() + labels.mean()).backward()
    assert all(p.grad is not None for p in shallow.parameters() if p.requires_grad)
    deep = UnifiedModel(NetworkConfig("Unet", encoder, 1, 1, decoder_channels=(8, 8, 8, 8, 8)))
    size = [sum(p.numel() for p in m.encoder.parameters()) for m in (shallow, deep)]
    assert size[0] < 0.6 * size[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_that_reach_an_output_are_those_with_a_gradient(architecture):
    """Told from autograd's graph alone."""
    encoder = "tu-test_vit" if architecture == "DPT" else "tu-test_resnet"
    parts = build_parts(NetworkConfig(architecture, encoder, num_classes=2, in_channels=1)).eval()
    encoded = parts.encoder(torch.zeros(1, 1, 128, 160))
    features, *tokens = encoded if isinstance(encoded, tuple) else (encoded,)
    masks, parameters = parts.segmentation_head(parts.decoder(features, *tokens)), list(parts.parameters())
    reached = _reached(masks, features[-1])
    gradients = torch.autograd.grad(masks.sum() + features[-1].sum(), parameters, allow_unused=True)
    assert reached == {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


@pytest.mark.parametrize(
    ("architecture", "encoder", "first", "last"),
    [
        ("Unet", "resnet18", {"conv1", "bn1"}, {"layer4"}),
        ("Unet", "efficientnet-b0", {"_conv_stem", "_bn0"}, {f"_blocks.{n}" for n in range(9, 16)}),
        ("Unet", "mobilenet_v2", {"features.0", "features.1"}, {f"features.{n}" for n in range(14, 19)}),
        ("Segformer", "mit_b0", {"patch_embed1", "block1", "norm1"}, {"patch_embed4", "block4", "norm4"}),
        ("Unet", "tu-tf_efficientnet_lite0", {"model.conv_stem", "model.bn1", "model.blocks.0"},
         {"model.blocks.5", "model.blocks.6"}),
        ("Unet", "tu-convnext_atto", {"model.stem_0", "model.stem_1", "model.stages_0"}, {"model.stages_3"}),
        ("DPT", "tu-test_vit", {"model.cls_token", "model.pos_embed", "model.patch_embed", "model.blocks.0"},
         {"model.blocks.4", "model.blocks.5"}),
    ],
)  # fmt: skip
def test_stages_of_an_encoder(architecture: str, encoder: str, first: set[str], last: set[str]) -> None:
    """Of smp's and timm's encoders: all that is trained, once each, from the input on; nothing else is changed."""
    model = UnifiedModel(NetworkConfig(architecture, encoder, num_classes=2, in_channels=1))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    stages = model.encoder_stages()
    names = {id(p): f"{name}." for name, p in model.encoder.named_parameters() if p.requires_grad}
    told = [[names[id(p)] for p in stage] for stage in stages]
    assert sorted(name for stage in told for name in stage) == sorted(names.values())
    assert len(stages) == (4 if encoder in ("mit_b0", "tu-convnext_atto", "tu-test_vit") else 5)
    for stage, parts in ((told[0], first), (told[-1], last)):
        assert all(any(name.startswith(f"{part}.") for name in stage) for part in parts), (stage, parts)
        assert all(any(name.startswith(f"{part}.") for part in parts) for name in stage), (stage, parts)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.encoder.training


def test_a_frozen_encoder_tells_its_stages_and_stays_frozen(small_model: UnifiedModel) -> None:
    model = copy.deepcopy(small_model).train()
    set_encoder_trainable(model, False)
    assert [len(stage) for stage in model.encoder_stages()] == [3, 12, 15]
    assert model.training and not model.encoder.training


def test_a_parameter_that_is_not_to_be_trained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """None could be told from one that reaches no output."""

    def build(network: NetworkConfig, **options: bool) -> torch.nn.Module:
        parts = build_parts(network, **options)
        parts.segmentation_head[0].bias.requires_grad_(False)
        return parts

    monkeypatch.setattr("steel.model.network.build_parts", build)
    with pytest.raises(InputError, match=r"segmentation_head\.0\.bias is not to be trained"):
        UnifiedModel(SMALL)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("Unet", "resnet18"),
        ("Unet", "efficientnet-b0"),
        ("FPN", "mit_b0"),
        ("DPT", "tu-test_vit"),
        ("PAN", "tu-test_resnet"),
    ],
)
def test_weights_that_will_be_loaded_are_not_drawn(architecture: str, encoder: str) -> None:
    """With those of another network, nothing is left that its twin of random weights does not have."""
    network = NetworkConfig(architecture, encoder, num_classes=2, in_channels=1)
    torch.manual_seed(0)
    drawn = UnifiedModel(network)
    torch.manual_seed(0)
    loaded = UnifiedModel(network, draw_weights=False)
    loaded.load_state_dict(drawn.state_dict())
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(model, kind)()) for model in (loaded, drawn))
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in drawn.parameters()]


def test_of_a_resnet_no_random_number_is_drawn_that_will_be_loaded() -> None:
    before = torch.get_rng_state()
    build_parts(SMALL, draw_weights=False)
    assert torch.equal(torch.get_rng_state(), before)
    build_parts(SMALL)
    assert not torch.equal(torch.get_rng_state(), before)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 8, 32]))
def test_padding_is_opencvs_reflection(height, width, stride):
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width), dtype=np.uint8)
    bottom, right = -height % stride, -width % stride
    expected = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
    padded = reflect_to_stride(torch.from_numpy(image)[None, None], stride)
    np.testing.assert_array_equal(padded[0, 0].numpy(), expected)


def test_padding_and_cropping_leave_the_image_in_place(small_model):
    image = torch.randn(1, 1, 45, 61)
    with torch.no_grad():
        masks, labels = small_model(image).values()
        padded = reflect_to_stride(image, small_model.stride)
        padded_masks, padded_labels = small_model(padded).values()
    assert padded.shape == (1, 1, 48, 64)
    assert torch.equal(masks, padded_masks[..., :45, :61])
    assert torch.equal(labels, padded_labels)


def test_classification_head_pools_average_and_maximum_and_heeds_each_class_own_mask():
    head = ClassificationHead(HeadShape(2, decoded_channels=3, encoded_channels=2, dropout=0.5)).eval()
    assert head.reliance.tolist() == [0, 0]  # nothing at first
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]] * 3))
        head.linear.bias.copy_(torch.tensor([0.5, 0.25, 0.125]))
        head.reliance.copy_(torch.tensor([2.0, 3.0]))
        feature = torch.tensor([[[[0.0, 4.0]], [[2.0, 6.0]]]])
        masks = torch.tensor([[[[-9.0, 7.0]], [[-5.0, -8.0]]]])
        pooled = 2 * 1 + 4 * 10 + 4 * 100 + 6 * 1000
        any_defect, first, second = head(Features((8, 8), torch.zeros(1, 3, 8, 8), feature, masks))[0].tolist()
        assert (any_defect, first, second) == (pooled + 0.5, pooled + 0.25 + 2 * 7, pooled + 0.125 + 3 * -5)


@pytest.mark.parametrize(
    ("changes", "needles"),
    [
        ({"architecture": "unet"}, ("model.architecture", "'unet'", "UnetPlusPlus", "DPT")),
        ({"encoder": "resnet35"}, ("model.encoder", "did you mean", "resnet34", "tu-NAME")),
        ({"encoder": "zzz"}, ("choose of", "resnet18", "mobileone_s4")),
        ({"encoder": "tu-mobilenetv3_smal_050"}, ("did you mean tu-mobilenetv3_small_050",)),
        ({"architecture": "FPN"}, ("model.decoder-channels", "FPN", "Unet, UnetPlusPlus, MAnet")),
        ({"decoder_channels": (8,) * 6}, ("at depth 6", "[1, 5]")),
        ({"architecture": "UnetPlusPlus", "encoder": "mit_b0"}, ("UnetPlusPlus", "mit_b0")),
        ({"encoder": "tu-swin_tiny_patch4_window7_224", "decoder_channels": None}, ("doesn't match model (224)",)),
        ({"architecture": "DPT", "decoder_channels": None}, ("Only Timm encoders",)),
        ({"in_channels": 2}, ("model.in-channels", "1 (gray) nor 3 (RGB)")),
        ({"num_classes": 0}, ("0 classes",)),
        ({"dropout": 1.0}, ("model.dropout",)),
    ],
)
def test_impossible_networks_are_refused_in_one_line(changes, needles):
    with pytest.raises(InputError) as caught:
        UnifiedModel(NetworkConfig(**{**vars(SMALL), **changes}))
    line = str(caught.value)
    assert "\n" not in line
    for needle in needles:
        assert needle in line


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise(channels):
    images = torch.randint(0, 256, (2, channels, 3, 4), dtype=torch.uint8)
    mean, std = (0.25, 0.5, 0.125)[:channels], (0.5, 0.25, 0.2)[:channels]
    expected = (images / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    result = normalise(images, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_gray_images_are_normalised_for_each_channel_of_a_network_of_three():
    images = torch.randint(0, 256, (2, 1, 3, 4), dtype=torch.uint8)
    mean, std = (0.25, 0.5, 0.125), (0.5, 0.25, 0.2)
    assert normalise(images, mean, std).equal(normalise(images.expand(-1, 3, -1, -1), mean, std))


def test_models_can_be_copied(small_model):
    twin = copy.deepcopy(small_model)
    image = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(twin(image)["segmentation"], small_model(image)["segmentation"])
        twin.segmentation_head[0].bias.add_(1)
        assert not torch.equal(twin(image)["segmentation"], small_model(image)["segmentation"])


def test_frozen_encoder_keeps_weights_and_statistics(small_model):
    model = copy.deepcopy(small_model).train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def step():
        optimizer.zero_grad()
        masks, labels = model(torch.randn(2, 1, 32, 32)).values()
        (masks.square().mean() + labels.square().mean()).backward()
        if model.encoder_frozen:
            drop_gradients(model.encoder.parameters())
        optimizer.step()

    set_encoder_trainable(model, False)
    model.train()  # as a loop does after each validation
    assert model.decoder.training
    assert all(p.requires_grad for p in model.parameters())
    decoder_before = model.segmentation_head[0].weight.clone()
    step()
    assert all(torch.equal(before[k], v) for k, v in model.encoder.state_dict().items())
    assert not torch.equal(decoder_before, model.segmentation_head[0].weight)
    assert not any(p in optimizer.state for p in model.encoder.parameters())

    set_encoder_trainable(model, True)
    step()
    changed = [k for k, v in model.encoder.state_dict().items() if not torch.equal(before[k], v)]
    assert len(changed) == len(before)


def test_freezing_in_evaluation_does_not_start_training(small_model):
    model = copy.deepcopy(small_model).eval()
    set_encoder_trainable(model, False)
    set_encoder_trainable(model, True)
    assert not any(module.training for module in model.modules())


class Edges(torch.nn.Module):
    """A stranger's head: the decoder's first channel, at the images' size."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((shape.num_classes, 1, 1), 2.0))

    def forward(self, features: Features) -> torch.Tensor:
        return self.scale * torch.nn.functional.interpolate(features.decoded[:, :1], features.size)


def test_a_further_head_is_an_output_of_its_name_at_the_images_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "edges", HeadKind("...", Edges))
    torch.manual_seed(0)
    plain = UnifiedModel(SMALL).eval()
    torch.manual_seed(0)
    model = UnifiedModel(dataclasses.replace(SMALL, heads=("edges",))).eval()
    image = torch.randn(2, 1, 45, 61)
    with torch.no_grad():
        outputs, expected = model(image), plain(image)
    assert {name: tuple(logits.shape) for name, logits in outputs.items()} == {
        "segmentation": (2, 3, 45, 61),
        "classification": (2, 4),
        "edges": (2, 3, 45, 61),
    }
    # The others are what they were without it, and so are the names of their tensors.
    assert all(outputs[name].equal(expected[name]) for name in ("segmentation", "classification"))
    assert list(model.state_dict()) == [*plain.state_dict(), "edges_head.scale"]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (("edgy",), r"model\.heads: 'edgy' is unknown; there are: none"),
        (("segmentation",), "every network has the segmentation's"),
        (("deep_supervision",), "deep_supervision is the name of another part of the loss"),
        (("a", "a"), "names one twice"),
    ],
)
def test_heads_that_cannot_be_are_refused(heads: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UnifiedModel(dataclasses.replace(SMALL, heads=heads))
