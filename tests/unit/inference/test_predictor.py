"""The predictor: one image, one answer, however it is batched, sized or coloured."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import steel
from steel.checkpoint import Checkpoint, save_checkpoint, stack_members
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision, apply_decision
from steel.errors import InputError, OutOfMemoryError
from steel.images.geometry import restore_size
from steel.inference.predictor import Predictor, build_models, choose_device
from steel.model.network import UnifiedModel, normalise
from steel.model.passes import PIXELS_PER_PASS_CPU, intra_op_threads
from tests.paths import ROOT

THREE = 3 * 32 * 40
"""Pixels of three images of 32x40 in a forward pass."""
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
        "decision": DECISION,
    }
    return Checkpoint(**{**values, **changes})


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint(0)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, device="cpu", precision="no", pixels_per_pass=THREE)


def images(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]


def assert_same(left, right):
    for name in ("masks", "labels", "mask_probs", "label_probs"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


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


def test_a_forward_pass_holds_as_many_images_as_its_pixels_allow(checkpoint, monkeypatch):
    (model,) = build_models(checkpoint)
    predictor = Predictor([model], mean=(0.4,), std=(0.2,), device="cpu")
    assert predictor.pixels_per_pass == PIXELS_PER_PASS_CPU == 65536
    (own,) = predictor.models
    shapes, forward = [], own.forward_padded
    monkeypatch.setattr(own, "forward_padded", lambda x: shapes.append(tuple(x.shape)) or forward(x))
    predictor.predict(images((128, 128), (256, 256), (129, 256), (300, 250), (130, 255), *[(128, 128)] * 4))
    counts = {shape: shapes.count(shape) for shape in shapes}
    # Padded to this network's stride of 4, and 2 * 132 * 256 > 65536.
    assert counts == {(4, 1, 128, 128): 2, (1, 1, 256, 256): 1, (1, 1, 132, 256): 2, (1, 1, 300, 252): 1}


def test_answers_come_in_order_and_images_are_taken_as_needed(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", pixels_per_pass=2 * 16 * 16, tta=())
    taken = []

    def source():
        # One rare size first: it must not hold up all that follows.
        for number, size in enumerate([(8, 8)] + [(16, 16)] * 5 + [(24, 24)] * 60):
            taken.append(number)
            yield np.full(size, number, np.uint8)

    answers, waits = [], []
    with intra_op_threads(2):
        for number, answer in enumerate(predictor.predict_stream(source())):
            answers.append(answer)
            waits.append(taken[-1] - number)
    assert [a.masks.shape[1] for a in answers] == [8] + [16] * 5 + [24] * 60
    # 16 passes' pixels, of 512 each: the five of 16x16 and 12 of 24x24; and what is under way on two threads.
    assert 5 + 12 <= max(waits) <= 5 + 12 + 4


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


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Views share passes, as on a GPU."""
    monkeypatch.setattr(Predictor, "views_at_once", property(lambda self: 1 + len(self.tta)))


@pytest.mark.parametrize(
    ("places", "views", "images_at_once", "pass_shapes"),
    [
        (16, ("hflip", "vflip", "hvflip"), 4, [16]),
        (8, ("hflip",), 4, [8]),
        (10, ("hflip", "vflip", "hvflip"), 5, [10, 10]),
        (5, ("hflip", "vflip", "hvflip"), 5, [5, 5, 5, 5]),  # four of five places would be left to views
        (2, ("hflip", "vflip", "hvflip"), 1, [2, 2]),
        (1, ("hflip",), 1, [1, 1]),
    ],
)
def test_on_a_gpu_views_share_passes_that_are_no_larger(
    checkpoint, as_on_a_gpu, monkeypatch, places, views, images_at_once, pass_shapes
):
    options = {"device": "cpu", "precision": "no", "tta": views, "pixels_per_pass": places * 32 * 40}
    predictor = Predictor.from_checkpoint(checkpoint, **options)
    shapes = []
    (model,) = predictor.models
    forward = model.forward_padded
    monkeypatch.setattr(model, "forward_padded", lambda x: shapes.append(len(x)) or forward(x))
    pictures = images(*[(32, 40)] * images_at_once, (30, 37))
    with intra_op_threads(1):
        answers = predictor.predict(pictures)
        assert shapes == pass_shapes * 2
        alone = [predictor.predict([picture])[0] for picture in pictures]
    for answer, other in zip(answers, alone, strict=True):
        assert_same(answer, other)
    monkeypatch.undo()
    for answer, other in zip(answers, Predictor.from_checkpoint(checkpoint, **options).predict(pictures), strict=True):
        for name in ("mask_probs", "label_probs"):
            difference = getattr(answer, name).astype(int) - getattr(other, name)
            assert np.abs(difference).max() <= 1, name


def test_views_share_passes_on_gpus_alone(checkpoint, monkeypatch):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", tta=("hflip", "vflip"))
    assert predictor.views_at_once == 1
    monkeypatch.setattr(predictor, "device", torch.device("cuda"))
    assert predictor.views_at_once == 3


def test_gated_views_that_share_passes_answer_alike(checkpoint, as_on_a_gpu):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", tta=("hflip",), pixels_per_pass=4 * 32 * 40)
    pair = images((32, 40)) * 2  # black ones in their places would be decoded for, too
    whole, _ = predictor.predict(pair)
    any_prob = int(whole.label_probs[0])
    for threshold in (any_prob, any_prob + 1):
        decision = Decision((ClassDecision(),) * 2, gate="binary", binary_threshold=threshold)
        gated, _ = predictor.predict_stream(pair, decision, masks_only=True)
        assert gated.label_probs[0] == any_prob
        expected = whole.mask_probs if threshold == any_prob else np.zeros_like(whole.mask_probs)
        np.testing.assert_array_equal(gated.mask_probs, expected)


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
    for got, first, second in zip(result, *parts, strict=True):
        assert np.abs(got - 127.5 * (first + second).numpy()).max() < 0.501
        assert np.abs(got - 255 * first.numpy()).max() > 1


def test_large_passes_answer_alike(checkpoint, predictor, monkeypatch):
    pictures = images(*SIZES)
    expected = predictor.predict(pictures)
    monkeypatch.setattr("steel.model.passes._LARGE_PASS", 3000)
    with intra_op_threads(2):
        for answer, same in zip(predictor.predict(pictures), expected, strict=True):
            assert_same(answer, same)


def test_images_can_be_given_by_path(predictor, tmp_path):
    pictures = images((32, 40), (30, 38, 3))
    names = [tmp_path / "gray.png", tmp_path / "colour.png"]
    cv2.imwrite(str(names[0]), pictures[0])
    cv2.imwrite(str(names[1]), pictures[1][..., ::-1])
    by_path = predictor.predict([names[0], str(names[1]), pictures[0]])
    assert_same(by_path[0], predictor.predict(pictures)[0])
    assert_same(by_path[2], by_path[0])
    of_colour = Predictor.from_checkpoint(make_checkpoint(1, in_channels=3), device="cpu")
    assert_same(of_colour.predict(names)[1], of_colour.predict(pictures)[1])
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"absent\.jpg: no such file"):
        predictor.predict([tmp_path / "absent.jpg"])
    with pytest.raises(InputError, match=r"text\.jpg: "):
        predictor.predict([tmp_path / "text.jpg"])


def test_sources_of_every_kind(predictor, tmp_path, monkeypatch):
    gray, colour = images((32, 40), (32, 40, 3))
    monkeypatch.chdir(tmp_path)
    for name, picture in (("shots/b.png", gray), ("shots/line/a.png", colour[..., ::-1]), ("shots/notes.txt", None)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"" if picture is None else cv2.imencode(".png", picture)[1].tobytes())
    (of_gray,), (of_colour,) = predictor.predict([gray]), predictor.predict([colour])
    both = [of_gray, of_colour]
    for source, ids, expected in (
        (gray, ["0"], [of_gray]),
        (gray[..., None], ["0"], [of_gray]),
        (colour, ["0"], [of_colour]),
        (np.stack([gray, gray]), ["0", "1"], [of_gray, of_gray]),
        (colour[None], ["0"], [of_colour]),
        ("shots/b.png", ["shots/b.png"], [of_gray]),
        (Path("shots"), ["b.png", "line/a.png"], both),
        (
            (Path("shots/line/a.png"), gray, "shots"),
            ["shots/line/a.png", "0", "b.png", "line/a.png"],
            both[::-1] + both,
        ),
        ((picture for picture in (gray, colour)), ["0", "1"], both),
        ([], [], []),
    ):
        found = predictor.predict(source)
        assert [prediction.image_id for prediction in found] == ids
        for prediction, same in zip(found, expected, strict=True):
            assert_same(prediction, same)


def test_what_is_no_image_is_refused(predictor, tmp_path):
    (gray,) = images((32, 40))
    for source, said in (
        ([gray.tolist()], "not list"),
        ([None], "not NoneType"),
        ("a.jpg", "a.jpg: no such file"),
        (tmp_path, "no images there"),
        (gray.astype(float), "float64 pixels; convert them to 8"),
        (np.zeros((32, 40, 4), np.uint8), r"an image must be .* not \(32, 40, 4\)"),
        ([np.zeros((2, 32, 40), np.uint8)], r"an image must be .* not \(2, 32, 40\)"),
    ):
        with pytest.raises(InputError, match=said):
            predictor.predict(source)


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
        from tests.unit.inference.test_predictor import make_checkpoint
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
