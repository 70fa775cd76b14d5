"""The predictor: one image, one answer, however it is batched, sized or coloured."""

import dataclasses
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import steel
from steel.checkpoint import save_checkpoint, stack_members
from steel.decision import ClassDecision, Decision, apply_decision, default_decision
from steel.errors import InputError, OutOfMemoryError
from steel.images.geometry import restore_size
from steel.inference.predictor import Predictor, build_models, choose_device
from steel.model.network import normalise
from steel.model.passes import intra_op_threads
from tests.noise_predictions import DECISION, THREE, assert_same, images, make_checkpoint, make_predictor
from tests.paths import ROOT


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint(0)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return make_predictor(checkpoint)


SIZES = [(32, 40), (30, 38), (32, 40), (17, 64), (31, 40), (32, 40), (9, 5), (32, 40), (17, 64), (96, 70)]


@pytest.mark.parametrize("pixels_per_pass", [1, THREE])
def test_answers_do_not_depend_on_company_or_threads(checkpoint, pixels_per_pass):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", pixels_per_pass=pixels_per_pass)
    pictures = images(*SIZES)
    with intra_op_threads(1):
        alone = [predictor.predict([picture])[0] for picture in pictures]
    assert [p.masks.shape for p in alone] == [(2, *size) for size in SIZES]
    for threads, order in ((1, range(10)), (2, range(10)[::-1]), (3, [3, 6, 9, 0, 2, 4, 8, 1, 5, 7])):
        with intra_op_threads(threads):
            together = predictor.predict([pictures[i] for i in order])
            assert torch.get_num_threads() == threads
        for i, answer in zip(order, together, strict=True):
            assert_same(answer, alone[i])


def test_a_network_is_made_ready_by_one_thread(checkpoint):
    """Beside other work on the machine, several wait for each other at each of its small operations."""
    seen = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        with intra_op_threads(3):
            predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
            assert torch.get_num_threads() == predictor.passes_at_once == 3
    finally:
        hook.remove()
    assert set(seen) == {1}


def test_an_answer_is_the_models_own(checkpoint):
    """Against a few lines of numpy: padded by reflection, then flipped, in a batch of three with two black images."""
    predictor = Predictor.from_checkpoint(
        checkpoint, device="cpu", precision="no", pixels_per_pass=THREE, tta=("hflip", "vflip", "hvflip")
    )
    (picture,) = images((30, 37))
    (answer,) = predictor.predict([picture])
    (model,) = build_models(checkpoint)
    padded = np.pad(picture, ((0, 2), (0, 3)), mode="reflect")
    mask_probs, label_probs = np.zeros((2, 32, 40)), np.zeros(3)
    for axes in ((), (1,), (0,), (0, 1)):
        batch = torch.zeros(3, 1, 32, 40, dtype=torch.uint8)
        batch[0, 0] = torch.from_numpy(np.flip(padded, axes).copy())
        with torch.no_grad():
            masks, labels = model(normalise(batch, checkpoint.mean, checkpoint.std)).values()
        mask_probs += np.flip(torch.sigmoid(masks[0]).numpy(), [axis + 1 for axis in axes]) / 4
        label_probs += torch.sigmoid(labels[0]).numpy() / 4
    assert np.abs(answer.mask_probs - 255 * mask_probs[:, :30, :37]).max() < 0.501
    assert np.abs(answer.label_probs - 255 * label_probs).max() < 0.501
    np.testing.assert_array_equal(answer.masks, apply_decision(DECISION, answer.mask_probs, answer.label_probs))
    np.testing.assert_array_equal(answer.labels, answer.label_probs >= 128)
    assert answer.masks[0].any()
    assert answer.masks.dtype == bool


def test_decision_and_views_can_be_given(checkpoint, predictor):
    assert predictor.tta == ("hflip",)
    plain = Predictor.from_checkpoint(checkpoint, device="cpu", tta=())
    (picture,) = images((32, 32))
    assert (plain.predict([picture])[0].mask_probs != predictor.predict([picture])[0].mask_probs).any()
    nothing = Decision(classes=(ClassDecision(max_area=0),) * 2)
    assert not predictor.predict([picture], nothing)[0].masks.any()


def test_gray_and_colour_meet_either_network(predictor):
    (gray,) = images((32, 32))
    colour = np.repeat(gray[..., None], 3, axis=2)
    assert_same(predictor.predict([gray])[0], predictor.predict([colour])[0])
    of_colour = Predictor.from_checkpoint(make_checkpoint(1, in_channels=3), device="cpu", pixels_per_pass=1)
    assert_same(of_colour.predict([gray])[0], of_colour.predict([colour])[0])
    swapped = np.stack([gray, 255 - gray, gray // 2], axis=2)
    assert (of_colour.predict([swapped])[0].mask_probs != of_colour.predict([swapped[..., ::-1]])[0].mask_probs).any()


def test_resized_networks_answer_at_the_original_size(checkpoint):
    resized = Predictor.from_checkpoint(
        dataclasses.replace(checkpoint, input_size=(24, 32)), device="cpu", pixels_per_pass=1, tta=()
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
    both = Predictor.from_checkpoint(stack_members([checkpoint, other]), device="cpu", tta=(), precision="no")
    assert len(both.models) == 2
    inputs = normalise(batch, checkpoint.mean, checkpoint.std)
    with torch.no_grad():
        parts = [[torch.sigmoid(logits) for logits in model.eval()(inputs).values()] for model in both.models]
    result = both.probabilities(batch)
    assert result.is_finite.all()
    for got, first, second in zip(result[:2], *parts, strict=True):
        assert np.abs(got - 127.5 * (first + second).numpy()).max() < 0.501
        assert np.abs(got - 255 * first.numpy()).max() > 1


def test_members_that_were_tuned_apart_share_their_flips(checkpoint):
    """Nothing was tuned for their average, and flips that one member was not tuned with are left out."""
    members = [
        dataclasses.replace(checkpoint, decision=default_decision(checkpoint.network.num_classes, views))
        for views in (("hflip", "vflip"), ("vflip",))
    ]
    both = Predictor.from_checkpoint(stack_members(members), device="cpu")
    assert (both.tta, both.is_tuned) == (("vflip",), False)
    assert Predictor.from_checkpoint(stack_members(members), device="cpu", tta=()).tta == ()


def test_large_passes_answer_alike(checkpoint, predictor, monkeypatch):
    pictures = images(*SIZES)
    expected = predictor.predict(pictures)
    monkeypatch.setattr("steel.model.passes._LARGE_PASS", 3000)
    with intra_op_threads(2):
        for answer, same in zip(predictor.predict(pictures), expected, strict=True):
            assert_same(answer, same)


REFUSALS = {
    "the host's allocator": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CUDA": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@pytest.mark.parametrize("library", REFUSALS)
def test_out_of_memory_names_the_option(checkpoint, monkeypatch, library):
    (model,) = build_models(checkpoint)
    predictor = Predictor([model], mean=(0.4,), std=(0.2,), device="cpu")

    def refuse(images):
        raise REFUSALS[library]

    monkeypatch.setattr(predictor.models[0], "forward_padded", refuse)
    with pytest.raises(OutOfMemoryError) as caught:
        predictor.predict(images((128, 128)))
    assert "4 images of 128x128; give fewer --pixels-per-pass than 65536" in str(caught.value)
    assert "runtime.pixels-per-pass" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(OutOfMemoryError, match=r"one image of 256x256, the fewest .* OMP_NUM_THREADS=1"):
        predictor.predict(images((256, 256)))


@pytest.mark.slow
def test_memory_that_the_host_does_not_have(checkpoint):
    """No pretence: the address space is limited in a process of its own, and torch says so itself."""
    code = """if True:
        import resource, numpy, torch
        from steel.inference.predictor import Predictor
        from tests.noise_predictions import make_checkpoint
        predictor = Predictor.from_checkpoint(make_checkpoint(0), device="cpu", pixels_per_pass=1 << 24)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
        predictor.predict([numpy.zeros((512, 512), numpy.uint8)])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "OutOfMemoryError: out of memory (" in last
    assert "64 images of 512x512; give fewer --pixels-per-pass than 16777216" in last


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
    masks, labels = model(normalise(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), (0.4,), (0.2,))).values()
    (masks.mean() + labels.mean()).backward()
    assert predictor.class_names == ("class 1", "class 2")


def test_from_checkpoint_reads_a_file(checkpoint, predictor, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, checkpoint)
    loaded = steel.Predictor.from_checkpoint(str(path), device="cpu", precision="no", pixels_per_pass=THREE)
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


@pytest.mark.parametrize("device", ["meta", "hpu", "privateuseone", "xpu"])
def test_devices_that_networks_do_not_run_on_are_one_line(device):
    with pytest.raises(InputError, match=f"device '{device}': choose auto, cpu, cuda,"):
        choose_device(device)


def test_mistakes(checkpoint, tmp_path):
    with pytest.raises(InputError, match="device 'cuda:99' is not to be had here"):
        choose_device("cuda:99")
    with pytest.raises(InputError, match="device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(InputError, match="precision 'int3'"):
        Predictor.from_checkpoint(checkpoint, device="cpu", precision="int3")
    with pytest.raises(InputError, match="pixels-per-pass: 0"):
        Predictor.from_checkpoint(checkpoint, device="cpu", pixels_per_pass=0)
    with pytest.raises(InputError, match="tta: rot90"):
        Predictor.from_checkpoint(checkpoint, device="cpu", tta=("rot90",))
    one_class = Decision(classes=(ClassDecision(),))
    with pytest.raises(InputError, match="decision for 1 classes"):
        Predictor.from_checkpoint(dataclasses.replace(checkpoint, decision=one_class), device="cpu")
    with pytest.raises(InputError, match="decision for 1 classes"):
        Predictor.from_checkpoint(checkpoint, device="cpu").predict(images((32, 40)), one_class)
    network = dataclasses.replace(checkpoint.network, decoder_channels=(8, 4))
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, dataclasses.replace(checkpoint, network=network))
    with pytest.raises(
        InputError, match=r"odd.safetensors: its weights do not fit Unet on tu-test_resnet .*size mismatch"
    ):
        Predictor.from_checkpoint(path, device="cpu")
