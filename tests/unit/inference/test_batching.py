"""Images and views that share forward passes, and how long images wait for others of their size."""

import numpy as np
import pytest
import torch

from steel.decision import ClassDecision, Decision
from steel.inference.predictor import Predictor, build_models
from steel.model.passes import PIXELS_PER_PASS_CPU, intra_op_threads
from tests.noise_predictions import assert_same, images, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint():
    return make_checkpoint(0)


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


@pytest.mark.parametrize(("threads", "places", "frames"), [(1, 1, 1), (1, 3, 3), (2, 1, 3), (2, 3, 9), (3, 2, 8)])
def test_the_first_prediction_comes_after_as_many_frames_as_docs_python_md_says(checkpoint, threads, places, frames):
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", pixels_per_pass=places * 32 * 40)
    taken = []
    with intra_op_threads(threads):
        predictions = predictor.predict_stream(taken.append(frame) or frame for frame in images((32, 40)) * 20)
        next(predictions)
        predictions.close()
    assert len(taken) == frames


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
