"""The predictor: one image, one answer, however it is batched, sized or coloured."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

import steel
from steel.checkpoint import Checkpoint, save_checkpoint, stack_members
from steel.config import NetworkConfig
from steel.data.geometry import restore_size
from steel.errors import InputError
from steel.evaluation.decision import ClassDecision, Decision, apply_decision
from steel.model.network import UnifiedModel, normalise
from steel.model.tta import predict_views, quantise
from steel.predictor import Predictor, build_models, choose_device

DECISION = Decision(classes=(ClassDecision(pixel_threshold=120), ClassDecision(min_area=40)), tta=("hflip",))


def make_checkpoint(seed, in_channels=1, **changes):
    torch.manual_seed(seed)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=in_channels, decoder_channels=(8, 8))
    values = {
        "network": network,
        "class_names": ("spot", "trace"),
        "mean": (0.4, 0.5, 0.6)[:in_channels],
        "std": (0.2, 0.25, 0.3)[:in_channels],
        "tensors": {name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()},
        "decision": DECISION.to_dict(),
    }
    return Checkpoint(**{**values, **changes})


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint(0)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, device="cpu", batch_size=3)


def images(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


SIZES = [(32, 40), (30, 38), (32, 40), (17, 64), (31, 40), (32, 40), (9, 5), (32, 40), (17, 64)]


def test_answers_do_not_depend_on_company(predictor):
    pictures = images(*SIZES)
    together = predictor.predict(pictures)
    assert [p.masks.shape for p in together] == [(2, *size) for size in SIZES]
    for picture, answer in zip(pictures, together, strict=True):
        (alone,) = predictor.predict([picture])
        assert_same(alone, answer)
    backwards = predictor.predict(pictures[::-1])[::-1]
    for one, other in zip(together, backwards, strict=True):
        assert_same(one, other)


def test_answers_come_in_order_and_images_are_taken_as_needed(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", batch_size=2, tta=())
    taken = []

    def source():
        # One rare size first: it must not hold up all that follows.
        for number, size in enumerate([(8, 8)] + [(16, 16)] * 5 + [(24, 24)] * 20):
            taken.append(number)
            yield np.full(size, number, np.uint8)

    answers, waits = [], []
    for number, answer in enumerate(predictor.predict_stream(source())):
        answers.append(answer)
        waits.append(taken[-1] - number)
    assert [a.masks.shape[1] for a in answers] == [8] + [16] * 5 + [24] * 20
    assert max(waits) <= 4 * 2 + 1  # four batches, and one when a full batch comes first


def test_an_answer_is_the_models_own(checkpoint, predictor):
    (picture,) = images((30, 37))
    (answer,) = predictor.predict([picture])
    (model,) = build_models(checkpoint)
    padded = np.pad(picture, ((0, 2), (0, 3)), mode="reflect")
    batch = torch.zeros(3, 1, 32, 40, dtype=torch.uint8)
    batch[0, 0] = torch.from_numpy(padded)
    with torch.no_grad():
        inputs = normalise(batch, checkpoint.mean, checkpoint.std).contiguous(memory_format=torch.channels_last)
        mask_probs, label_probs = predict_views(model, inputs, ("hflip",))
    np.testing.assert_array_equal(answer.mask_probs, quantise(mask_probs)[0, :, :30, :37])
    np.testing.assert_array_equal(answer.label_probs, quantise(label_probs)[0])
    np.testing.assert_array_equal(answer.masks, apply_decision(DECISION, answer.mask_probs, answer.label_probs))
    np.testing.assert_array_equal(answer.labels, answer.label_probs >= 128)
    assert answer.masks[0].any()
    assert answer.masks.dtype == bool


def test_decision_and_views_can_be_given(checkpoint, predictor):
    assert predictor.tta == ("hflip",)
    plain = Predictor.from_checkpoint(checkpoint, device="cpu", batch_size=3, tta=())
    (picture,) = images((32, 32))
    assert (plain.predict([picture])[0].mask_probs != predictor.predict([picture])[0].mask_probs).any()
    nothing = Decision(classes=(ClassDecision(max_area=0),) * 2)
    assert not predictor.predict([picture], nothing)[0].masks.any()


def test_gray_and_colour_meet_either_network(predictor):
    (gray,) = images((32, 32))
    colour = np.repeat(gray[..., None], 3, axis=2)
    assert_same(predictor.predict([gray])[0], predictor.predict([colour])[0])
    of_colour = Predictor.from_checkpoint(make_checkpoint(1, in_channels=3), device="cpu", batch_size=1)
    assert_same(of_colour.predict([gray])[0], of_colour.predict([colour])[0])
    swapped = np.stack([gray, 255 - gray, gray // 2], axis=2)
    assert (of_colour.predict([swapped])[0].mask_probs != of_colour.predict([swapped[..., ::-1]])[0].mask_probs).any()


def test_resized_networks_answer_at_the_original_size(checkpoint):
    resized = Predictor.from_checkpoint(
        dataclasses.replace(checkpoint, input_size=(24, 32)), device="cpu", batch_size=1, tta=()
    )
    (picture,) = images((50, 61))
    (answer,) = resized.predict([picture])
    small = resized.probabilities(torch.from_numpy(np.zeros((1, 1, 24, 32), np.uint8)))
    assert small.mask_probs.shape == (1, 2, 24, 32)
    assert answer.masks.shape == (2, 50, 61)
    reduced = cv2.resize(picture, (32, 24), interpolation=cv2.INTER_AREA)
    expected = resized.probabilities(torch.from_numpy(reduced)[None, None])
    np.testing.assert_array_equal(answer.mask_probs, restore_size(expected.mask_probs[0], 50, 61))


def test_members_are_averaged(checkpoint):
    other = make_checkpoint(5)
    batch = torch.from_numpy(np.stack(images((32, 32), (32, 32)))[:, None])
    both = Predictor.from_checkpoint(stack_members([checkpoint, other]), device="cpu", tta=())
    assert len(both.models) == 2
    inputs = normalise(batch, checkpoint.mean, checkpoint.std)
    with torch.no_grad():
        parts = [predict_views(model, inputs, ()) for model in both.models]
    result = both.probabilities(batch)
    for got, index in ((result.mask_probs, 0), (result.label_probs, 1)):
        mean = (parts[0][index] + parts[1][index]) / 2
        assert np.abs(got - 255 * mean.numpy()).max() < 0.51
        assert (quantise(parts[0][index]).numpy() != got).any()


def test_live_models_go_on_training(checkpoint):
    (model,) = build_models(checkpoint)
    model.train()
    model.encoder.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predictor = Predictor([model], mean=(0.4,), std=(0.2,), device="cpu")
    predictor.predict(images((32, 32)))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    # Nothing made in inference mode may be left in the way of gradients.
    masks, labels = model(normalise(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), (0.4,), (0.2,)))
    (masks.mean() + labels.mean()).backward()
    assert predictor.class_names == ("class 1", "class 2")


def test_from_checkpoint_reads_a_file(checkpoint, predictor, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, checkpoint)
    loaded = steel.Predictor.from_checkpoint(str(path), device="cpu", batch_size=3)
    (picture,) = images((32, 32))
    assert_same(loaded.predict([picture])[0], predictor.predict([picture])[0])
    assert loaded.class_names == ("spot", "trace")


def test_bf16_is_close(checkpoint):
    (picture,) = images((32, 32))
    full, half = (
        Predictor.from_checkpoint(checkpoint, device="cpu", precision=p).predict([picture])[0].mask_probs.astype(int)
        for p in ("no", "bf16")
    )
    assert 0 < np.abs(full - half).max() < 16


def test_mistakes(checkpoint, tmp_path):
    with pytest.raises(InputError, match="device 'cuda:99' is not to be had here"):
        choose_device("cuda:99")
    with pytest.raises(InputError, match="device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(InputError, match="precision 'int3'"):
        Predictor.from_checkpoint(checkpoint, device="cpu", precision="int3")
    with pytest.raises(InputError, match="tta: rot90"):
        Predictor.from_checkpoint(checkpoint, device="cpu", tta=("rot90",))
    one_class = Decision(classes=(ClassDecision(),)).to_dict()
    with pytest.raises(InputError, match="decision for 1 classes"):
        Predictor.from_checkpoint(dataclasses.replace(checkpoint, decision=one_class), device="cpu")
    network = dataclasses.replace(checkpoint.network, decoder_channels=(8, 4))
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, dataclasses.replace(checkpoint, network=network))
    with pytest.raises(
        InputError, match=r"odd.safetensors: its weights do not fit Unet on tu-test_resnet .*size mismatch"
    ):
        Predictor.from_checkpoint(path, device="cpu")
