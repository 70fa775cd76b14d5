"""What a network with published weights expects of its inputs: their means and deviations, one channel or three."""

import logging
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from steel.errors import InputError
from steel.pretrained.encoder import load_encoder, usual_inputs
from steel.pretrained.names import fit_names
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


@pytest.mark.parametrize(("channels", "other"), [(1, 3), (3, 1)])
def test_channels_are_not_changed_where_weights_are_standardised_in_each_pass(
    channels: int, other: int, tmp_path: Path
) -> None:
    """These are made anew of all channels, so that no sum of three says of gray what they say."""
    theirs = trained(timm.create_model("test_nfnet", in_chans=other))
    path = save(tmp_path / "w.safetensors", theirs.state_dict())
    with pytest.raises(InputError, match=rf"'tu-test_nfnet' standardises its weights.* --model\.in-channels {other}$"):
        load_encoder(network("tu-test_nfnet", channels), path)
    told, *_ = load_encoder(network("tu-test_nfnet", other), path)
    assert told.fitted == told.tensors


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("test_convnext", MEAN, STD),  # a bias takes up the means, and nothing is padded
        ("test_resnet", (0.5,) * 3, (0.5,) * 3),
        ("test_resnet", (0.4,) * 3, STD),  # a plain sum would be wrong here
        ("test_efficientnet", (0.3,) * 3, (0.2, 0.1, 0.3)),
    ],
)
def test_one_channel_says_what_three_say_of_gray(name: str, mean: Any, std: Any, tmp_path: Path) -> None:
    theirs, gray = classifier(name), image(1)
    path = save(tmp_path / "w.safetensors", theirs.state_dict())
    model = network(f"tu-{name}", 1)
    _, inputs, _ = load_encoder(model, path, Normalisation(mean, std))
    assert len(inputs.mean) == len(inputs.std) == 1
    assert_same_features(
        features_of_ours(model, gray, inputs), features_of_timm(theirs, gray.expand(-1, 3, -1, -1), mean, std)
    )


def test_what_stands_beside_is_followed_unless_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "train.fit")
    path = save(tmp_path / "w.safetensors", classifier("test_resnet").state_dict())
    beside = tmp_path / "config.json"
    beside.write_text('{"mean": [0.5], "std": [0.25], "license": ["mit"]}')
    _, inputs, _ = load_encoder(network("tu-test_resnet"), path)
    assert inputs == Normalisation((0.5,) * 3, (0.25,) * 3)
    assert f"by mean 0.5 0.5 0.5 and deviation 0.25 0.25 0.25, after {beside}" in caplog.text
    beside.write_text('{"mean": 0.5, "std": 0.5}')
    with pytest.raises(InputError, match=r"config\.json has mean 0\.5 and std 0\.5.*--model\.mean and --model\.std"):
        load_encoder(network("tu-test_resnet"), path)
    assert load_encoder(network("tu-test_resnet"), path, IMAGENET)[1] == IMAGENET
    assert "after --model.mean and --model.std" in caplog.text
    beside.unlink()
    caplog.clear()
    load_encoder(network("tu-test_resnet"), path)
    assert "deviation 0.5 0.5 0.5, after what is usual for tu-test_resnet" in caplog.text


def test_batch_normalisation_takes_up_means_that_differ(tmp_path: Path) -> None:
    """But for the border that the first convolution pads: there the three channels were padded with three grays."""
    torch.manual_seed(0)
    theirs, gray = trained(torchvision.models.resnet18()), image(1)
    path = save(tmp_path / "w.safetensors", theirs.state_dict())
    model = network("resnet18", 1)
    _, inputs, _ = load_encoder(model, path)
    pixels = (gray.expand(-1, 3, -1, -1) / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    with torch.no_grad():
        expected = theirs.relu(theirs.bn1(theirs.conv1(pixels)))
    found = features_of_ours(model, gray, inputs)[1]
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-4, atol=1e-4)
    assert (found - expected).abs().max() < 1


def test_gray_images_as_three_channels_are_exact_at_the_border_too(tmp_path: Path) -> None:
    theirs, gray = classifier("test_resnet"), image(1)
    model = network("tu-test_resnet", 3)
    _, inputs, _ = load_encoder(model, save(tmp_path / "w.safetensors", theirs.state_dict()), IMAGENET)
    assert_same_features(
        features_of_ours(model, gray, inputs), features_of_timm(theirs, gray.expand(-1, 3, -1, -1), MEAN, STD)
    )


@pytest.mark.parametrize(("name", "inputs"), [("s", IMAGENET), ("l", Normalisation((0.5,) * 3, (0.5,) * 3))])
def test_torchvisions_inputs_where_timms_weights_have_others(name: str, inputs: Normalisation) -> None:
    """Of its EfficientNetV2 the large one alone was trained with Inception's."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"efficientnet_v2_{name}")().state_dict()
        own = smp.encoders.get_encoder(f"tu-tf_efficientnetv2_{name}", weights=None).state_dict()
    fit = fit_names(own, theirs)
    assert not fit.missing
    assert usual_inputs(f"tu-tf_efficientnetv2_{name}", theirs) == (inputs, "what torchvision's weights expect")


def test_three_means_for_weights_of_one_channel_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors", network("tu-test_resnet", 1).state_dict())
    with pytest.raises(InputError, match=r"model\.mean: 3 values"):
        load_encoder(network("tu-test_resnet", 1), path, IMAGENET)
    model = network("tu-test_resnet", 1)
    _, inputs, _ = load_encoder(model, path)  # what timm says of three channels, on average
    assert inputs == Normalisation((0.5,), (0.5,))
