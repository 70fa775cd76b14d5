"""Weights in the names and forms of others reach the encoder: it then says of images what their own code says."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from timm.layers import resample_abs_pos_embed

from steel.checkpoint import Checkpoint, save_checkpoint, stack_members
from steel.config import NetworkConfig
from steel.errors import InputError
from steel.model.network import UnifiedModel, normalise
from steel.pretrained.encoder import licence_of_file, load_encoder, tell_licence
from steel.pretrained.licences import licence_text
from steel.pretrained.module_order import module_orders
from steel.pretrained.names import ENOUGH, fit_names
from steel.pretrained.stem import Normalisation
from tests.as_if_trained import trained
from tests.encoder_weights import (
    IMAGENET,
    MEAN,
    STD,
    assert_same_features,
    classifier,
    features_of_ours,
    features_of_timm,
    image,
    network,
    save,
)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_whole_classifier_in_timms_names(name: str, suffix: str, tmp_path: Path) -> None:
    theirs, path = classifier(name), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in theirs.state_dict().items()}}, path)
    else:
        save(path, theirs.state_dict())
    model = network(f"tu-{name}")
    told, inputs, _ = load_encoder(model, str(path), IMAGENET)
    assert (told.fitted, inputs) == (told.tensors, IMAGENET)
    assert_same_features(features_of_ours(model, image(3), inputs), features_of_timm(theirs, image(3), MEAN, STD))


@pytest.mark.parametrize(
    "name",
    [
        *("cs3darknet_focus_s", "darknet17", "cspresnet50", "resnext26ts", "resnet51q", "regnetz_b16", "tresnet_m"),
        *("nf_resnet26", "nf_regnet_b0", "eca_nfnet_l0", "resnetv2_50x1_bit", "halonet26t", "lambda_resnet26t"),
        *("efficientformerv2_s0", "efficientvit_b0", "test_coatnet", "test_maxvit", "hrnet_w18_small"),
    ],
)
def test_timms_classifiers_fill_its_extractors_whatever_their_parts_are_called(name: str) -> None:
    with torch.device("meta"):
        own, whole = smp.encoders.get_encoder(f"tu-{name}", weights=None), timm.create_model(name)
    fit = fit_names(own.state_dict(), whole.state_dict())
    assert not fit.missing
    for mine, theirs in fit.taken.items():
        assert mine.removeprefix("model.").replace("_", ".") == theirs.replace("_", ".")


def test_weights_without_the_first_convolution_are_refused(tmp_path: Path) -> None:
    """However many of the others fit: they would be given what a random one makes of an image."""
    theirs = timm.create_model("resnet18", in_chans=4).state_dict()
    with pytest.raises(InputError, match=r"no first convolution.* encoder 'tu-resnet18' \(conv1\.weight takes 4 chan"):
        load_encoder(network("tu-resnet18", 1), save(tmp_path / "w.safetensors", theirs))
    del theirs["conv1.weight"]
    with pytest.raises(InputError, match=r"\(model\.conv1\.weight of shape \[64, 1, 7, 7\] is not in it\)"):
        load_encoder(network("tu-resnet18", 1), save(tmp_path / "w.safetensors", theirs))


@pytest.mark.parametrize(("first", "second"), [("model", "model_ema"), ("student", "teacher"), ("optim", "swap")])
def test_of_several_sets_that_fit_the_averaged_one_is_taken(
    first: str, second: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = {name: classifier("test_resnet") for name in (first, second)}
    with torch.no_grad():
        theirs[first].layer1[0].conv1.weight.add_(1)
    torch.save({name: one.state_dict() for name, one in theirs.items()}, tmp_path / "w.pth")
    model = network("tu-test_resnet")
    with caplog.at_level(logging.INFO, logger="train.fit"):
        load_encoder(model, str(tmp_path / "w.pth"))
    assert model.encoder.state_dict()["model.layer1.0.conv1.weight"].equal(theirs[second].layer1[0].conv1.weight)
    assert f" from {second} in {tmp_path / 'w.pth'}, by name" in caplog.text


def test_of_several_sets_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    longer = {f"block.{n}.weight": torch.zeros(3) for n in range(500)}
    torch.save({"decoder": longer, "encoder": classifier("resnet18").state_dict()}, tmp_path / "w.pth")
    told, *_ = load_encoder(network("resnet18"), str(tmp_path / "w.pth"))
    assert told.fitted == told.tensors


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvisions_names_of_a_network_that_timm_names_otherwise(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, path = trained(torchvision.models.efficientnet_b0()), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        save(path, theirs.state_dict())
    model = network("tu-efficientnet_b0")
    told, inputs, _ = load_encoder(model, str(path))
    assert (told.fitted, inputs) == (told.tensors, IMAGENET)
    with torch.no_grad():
        pixels = normalise(image(3, (64, 64)), MEAN, STD)
        expected = theirs.features[:-1](pixels)
        torch.testing.assert_close(model.encoder(pixels)[-1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("encoder", "make"),
    [
        ("efficientnet-b0", lambda: timm.create_model("efficientnet_b0")),
        ("timm-efficientnet-b0", torchvision.models.efficientnet_b0),
        ("tu-efficientnet_b0", lambda: smp.encoders.get_encoder("efficientnet-b0", weights=None)),
        ("tu-tf_efficientnetv2_s", torchvision.models.efficientnet_v2_s),
        ("tu-convnext_tiny", torchvision.models.convnext_tiny),
        ("tu-mobilenetv3_large_100", torchvision.models.mobilenet_v3_large),
        ("tu-mnasnet_100", torchvision.models.mnasnet1_0),
    ],
)
def test_safetensors_which_have_no_order_are_read_as_torch_files_in_theirs(encoder: str, make: Any) -> None:
    with torch.device("meta"):
        own, given = smp.encoders.get_encoder(encoder, weights=None).state_dict(), make().state_dict()
    in_order = fit_names(own, given)
    assert (in_order.missing, in_order.how) == ((), "by order, under other names")
    for prefix in ("", "module."):
        by_name = {f"{prefix}{name}": given[name] for name in sorted(given)}
        assert fit_names(own, by_name).share < ENOUGH
        fit = fit_names(own, by_name, orders=module_orders(encoder))
        assert fit.taken == {mine: f"{prefix}{theirs}" for mine, theirs in in_order.taken.items()}


def test_torchvisions_regnet_whose_tensors_lie_in_another_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = trained(torchvision.models.regnet_y_400mf())
    model = network("tu-regnety_004")
    told, _, _ = load_encoder(model, save(tmp_path / "w.safetensors", theirs.state_dict()), IMAGENET)
    assert told.fitted == told.tensors
    with torch.no_grad():
        pixels = normalise(image(3, (64, 64)), MEAN, STD)
        expected = theirs.trunk_output(theirs.stem(pixels))
        torch.testing.assert_close(model.encoder(pixels)[-1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("wrapped", ["", "module.", "module._orig_mod."])
def test_torchvisions_vision_transformer(wrapped: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the size that timm calls tiny, which timm's own weights have other inputs for."""
    caplog.set_level(logging.INFO, "train.fit")
    torch.manual_seed(0)
    theirs = trained(torchvision.models.VisionTransformer(224, 16, 12, 3, 192, 768))
    model = UnifiedModel(NetworkConfig("DPT", "tu-vit_tiny_patch16_224", 1, 3)).eval()
    tensors = {f"{wrapped}{name}": tensor for name, tensor in theirs.state_dict().items()}
    told, inputs, _ = load_encoder(model, save(tmp_path / "w.safetensors", tensors))
    assert (told.fitted, inputs) == (told.tensors, IMAGENET)
    assert "after what torchvision's weights expect" in caplog.text
    with torch.no_grad():
        pixels = normalise(image(3, (224, 224)), MEAN, STD)
        tokens = theirs._process_input(pixels)
        tokens = torch.cat([theirs.class_token.expand(2, -1, -1), tokens], dim=1) + theirs.encoder.pos_embedding
        expected = theirs.encoder.layers(tokens)[:, 1:]
        found = model.encoder(pixels)[0][-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_positions_of_a_vision_transformer_for_larger_images_are_resampled(tmp_path: Path) -> None:
    theirs = trained(timm.create_model("vit_tiny_patch16_384"))
    model = UnifiedModel(NetworkConfig("DPT", "tu-vit_tiny_patch16_224", 1, 3)).eval()
    told, *_ = load_encoder(model, save(tmp_path / "w.safetensors", theirs.state_dict()))
    assert told.fitted == told.tensors
    wanted = resample_abs_pos_embed(theirs.pos_embed, new_size=[14, 14])
    torch.testing.assert_close(model.encoder.state_dict()["model.pos_embed"], wanted)


def test_the_names_of_an_original_publication(tmp_path: Path) -> None:
    """ConvNeXt's authors have other names, and linear layers for convolutions of 1x1."""
    theirs = classifier("test_convnext")
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        name = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", name)
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        tensors[name] = tensor.flatten(1) if "pwconv" in name and tensor.ndim == 4 else tensor
    assert "stages.1.0.dwconv.weight" in tensors and "stem.0.weight" not in tensors
    model = network("tu-test_convnext")
    told, inputs, _ = load_encoder(model, save(tmp_path / "w.safetensors", tensors), IMAGENET)
    assert told.fitted == told.tensors
    assert_same_features(features_of_ours(model, image(3), inputs), features_of_timm(theirs, image(3), MEAN, STD))


def test_an_encoder_out_of_another_programs_network(tmp_path: Path) -> None:
    """A whole network of segmentation-models-pytorch: its decoder stays where it is."""
    theirs = network("resnet18")
    trained(theirs)
    path = save(tmp_path / "w.safetensors", {f"model.{n}": t for n, t in theirs.state_dict().items()})
    model = network("resnet18", decoder_channels=(8, 8, 8))
    before = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
    told, _, _ = load_encoder(model, path)
    assert told.fitted == told.tensors
    with torch.no_grad():
        pixels = torch.randn(1, 3, 64, 64)
        assert model.encoder(pixels)[3].equal(theirs.encoder(pixels)[3])
    assert all(before[name].equal(tensor) for name, tensor in model.decoder.state_dict().items())


def own_checkpoint(model: UnifiedModel, provenance: dict[str, Any], mean: float = 0.3) -> Checkpoint:
    channels = model.network.in_channels
    tensors = {name: tensor.unsqueeze(0) for name, tensor in model.state_dict().items()}
    return Checkpoint(
        model.network, ("a",), (mean,) * channels, (0.2,) * channels, tensors, None, {}, provenance
    )  # fmt: skip


def test_a_checkpoint_of_ours_brings_its_inputs_and_its_licence(tmp_path: Path) -> None:
    former = network("tu-test_resnet", 1)
    trained(former)
    licence = "DINOv3 License (Meta's own terms, not Apache-2.0)"
    save_checkpoint(tmp_path / "m.safetensors", own_checkpoint(former, {"encoder_weights": {"licence": licence}}))
    gray = image(1)
    for channels in (1, 3):  # of three channels, too: the same of a gray image
        model = network("tu-test_resnet", channels)
        told, inputs, _ = load_encoder(model, str(tmp_path / "m.safetensors"))
        assert told.licence == licence and told.fitted == told.tensors
        assert inputs == Normalisation((0.3,) * channels, (0.2,) * channels)
        expected = features_of_ours(former, gray, Normalisation((0.3,), (0.2,)))
        for ours, theirs in zip(features_of_ours(model, gray, inputs)[1:], expected[1:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_nobodys_licence_is_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    former = network("tu-test_resnet", 1)
    save_checkpoint(tmp_path / "m.safetensors", own_checkpoint(former, {"encoder_weights": None}))
    with caplog.at_level(logging.INFO, logger="train.fit"):
        told, _, _ = load_encoder(network("tu-test_resnet", 1), str(tmp_path / "m.safetensors"))
    assert "random" in told.licence and all(record.levelno == logging.INFO for record in caplog.records)


def test_an_ensemble_has_no_one_encoder(tmp_path: Path) -> None:
    checkpoint = own_checkpoint(network("tu-test_resnet", 1), {})
    save_checkpoint(tmp_path / "m.safetensors", stack_members([checkpoint, checkpoint]))
    with pytest.raises(InputError, match="ensemble of 2; give one of its members"):
        load_encoder(network("tu-test_resnet", 1), str(tmp_path / "m.safetensors"))


def test_weights_of_another_encoder_are_refused_with_how_much_fits(tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors", classifier("test_efficientnet").state_dict())
    model = network("resnet18")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        InputError, match=r"w\.safetensors: fits \d+ of the 100 tensors of encoder 'resnet18' \(\d+ %\)"
    ):
        load_encoder(model, path)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("encoder", "deeper", "block", "more"),
    [
        ("resnet18", "resnet34", r"layer[123]\.\d", 5),  # those of layer4 have nothing after them
        ("tu-tf_efficientnet_lite0", "tf_efficientnet_lite1", r"blocks\.[1-5]\.\d", 3),
    ],
)
def test_weights_of_a_deeper_encoder_are_refused_though_all_is_found(
    encoder: str, deeper: str, block: str, more: int, tmp_path: Path
) -> None:
    path = save(tmp_path / "w.safetensors", timm.create_model(deeper).state_dict())
    told = rf"of a deeper encoder than '{encoder}', with {block}, {block} and {more} more between what fits"
    with pytest.raises(InputError, match=told):
        load_encoder(network(encoder), path)


def test_later_stages_may_be_left_over(tmp_path: Path) -> None:
    """As of a classifier whose last stages give no features that the decoder takes."""
    tensors = dict(classifier("test_resnet").state_dict())
    tensors |= {"layer5.0.conv1.weight": torch.zeros(2), "layer4.1.conv1.weight": torch.zeros(2)}
    told, _, _ = load_encoder(network("tu-test_resnet"), save(tmp_path / "w.safetensors", tensors))
    assert told.fitted == told.tensors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    tensors = dict(classifier("test_resnet").state_dict())
    tensors["fc.bias"][0] = value  # which nothing takes
    load_encoder(network("tu-test_resnet"), save(tmp_path / "w.safetensors", tensors))
    tensors["layer2.0.bn1.running_var"][1] = value
    with pytest.raises(
        InputError, match=r"w\.safetensors: layer2\.0\.bn1\.running_var with numbers that are not finite"
    ):
        load_encoder(network("tu-test_resnet"), save(tmp_path / "w.safetensors", tensors))


def test_what_did_not_fit_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = dict(classifier("test_resnet").state_dict())
    tensors["layer4.0.bn1.weight"] = torch.zeros(3)
    del tensors["layer3.0.bn1.bias"]
    heads = {f"head{n}.weight": torch.zeros(n + 1) for n in range(12)}
    tensors |= heads
    with caplog.at_level(logging.INFO, logger="train.fit"):
        told, _, _ = load_encoder(network("tu-test_resnet"), save(tmp_path / "w.safetensors", tensors))
    assert told.tensors - told.fitted == 2
    assert "random: model.layer3.0.bn1.bias, model.layer4.0.bn1.weight" in caplog.text
    (line,) = [r.message for r in caplog.records if "not in the encoder" in r.message]
    assert set(line.rpartition(": ")[2].split(", ")) >= {"fc.bias", "fc.weight", *heads}  # each, however many


def test_the_licence_is_said_and_a_special_one_louder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = classifier("test_resnet").state_dict()
    for licence, level in (("apache-2.0", logging.INFO), ("dinov3-license", logging.WARNING)):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="train.fit"):
            path = save(tmp_path / "w.safetensors", tensors, license=licence)
            told, _, _ = load_encoder(network("tu-test_resnet"), path)
        (record,) = [r for r in caplog.records if r.message.startswith("encoder weights: licence")]
        assert record.levelno == level and told.licence in record.message
    assert told.licence == "DINOv3 License (Meta's own terms, not Apache-2.0)"


def test_a_licence_that_is_not_known_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    tell_licence(licence_text(None))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.message == (
        "encoder weights: licence not recorded; ask whoever published the file before you hand on what is trained "
        "from it"
    )


@pytest.mark.parametrize("name", ["dinov3_vitx_pretrain.pth", "DINOv3-vitx/model.pth", "dinov3/other/w.pth"])
def test_the_licence_of_a_file_that_says_nothing_is_told_by_its_name(name: str, tmp_path: Path) -> None:
    """Its encoder has one for which others have published, too."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(classifier("test_resnet").state_dict(), tmp_path / name)
    told, *_ = load_encoder(network("tu-test_resnet"), str(tmp_path / name))
    assert told.licence.startswith("not recorded" if "other" in name else "DINOv3 License")


def test_the_licence_of_a_familys_encoder_is_that_of_its_tag() -> None:
    """Some sets of weights of DINOv3's networks are others'."""
    told = {
        tag: licence_text(licence_of_file(f"tu-vit_small_patch16_dinov3_qkvb.{tag}", "w.pth"))
        for tag in ("lvd1689m", "eupe_lvd1689m")
    }
    assert (
        told["lvd1689m"].startswith("DINOv3 License") and told["eupe_lvd1689m"] == "fair-noncommercial-research-license"
    )


@pytest.mark.skipif("STEEL_REAL_DATA" not in os.environ, reason="needs real weights")
def test_real_weights_say_of_real_steel_what_timm_says() -> None:
    root = Path(os.environ["STEEL_REAL_DATA"])
    path = root / "weights" / "tf_efficientnet_lite0.safetensors"
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(safetensors.torch.load_file(path))
    strip = next(iter(sorted((root / "severstal_sample" / "train_images").iterdir())))
    gray = torchvision.io.read_image(str(strip), torchvision.io.ImageReadMode.GRAY)[None]
    model = network("tu-tf_efficientnet_lite0", 1)
    told, inputs, _ = load_encoder(model, str(path))
    assert told.fitted == told.tensors and told.licence == "Apache-2.0"
    assert inputs == Normalisation((0.5,), (0.5,))  # as timm says of these weights
    wide = features_of_timm(theirs, gray.expand(-1, 3, -1, -1), (0.5,) * 3, (0.5,) * 3)
    assert_same_features(features_of_ours(model, gray, inputs), wide)
