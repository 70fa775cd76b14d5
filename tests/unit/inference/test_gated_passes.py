"""Images that the gate clears: no decoder runs for them, and what is written has the same bytes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, stack_members
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision
from steel.inference import predictor as predictor_module
from steel.inference.folder_job import FolderJob
from steel.inference.predict_folder import predict_folder
from steel.inference.predictor import Predictor
from steel.inference.writers import WRITERS
from steel.model.network import UnifiedModel
from steel.model.passes import intra_op_threads
from tests.image_folder import tree_digest

SIZE = (24, 32)


def make_checkpoint(seed: int) -> Checkpoint:
    """Masks of about half of the pixels; labels that differ from image to image."""
    torch.manual_seed(seed)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)
        model.classification_head.linear.weight.mul_(30)
        model.classification_head.reliance.fill_(0.5)
    tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
    return Checkpoint(network, ("pit", "dent"), (0.4,), (0.2,), tensors)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated") / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        image = cv2.GaussianBlur(rng.integers(0, 256, SIZE, dtype=np.uint8), (0, 0), 0.5 + number / 2)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


@pytest.mark.parametrize("gate", ["binary", "class", "binary+class"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("members", [1, 2])
def test_the_bytes_are_the_same_and_decoders_run_for_the_others_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str, threads: int, members: int
) -> None:
    checkpoint = stack_members([make_checkpoint(seed) for seed in range(members)])
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", tta=("hflip",), pixels_per_pass=1)
    probs = np.stack([prediction.label_probs for prediction in predictor.predict(images)]).astype(int)
    any_threshold, class_threshold = (int(np.percentile(p, 25)) for p in (probs[:, 0], probs[:, 1:].max(axis=1)))
    classes = (ClassDecision(label_threshold=class_threshold),) * 2
    predictor.decision = Decision(classes, gate=gate, binary_threshold=any_threshold)
    may = int((probs[:, 0] >= any_threshold).sum()) if gate != "class" else 8  # a class is told by its mask, too
    assert 0 < may < 8 or gate == "class"
    formats = tuple(name for name in WRITERS if name not in ("jsonl", "table"))
    decoded = []
    for model in predictor.models:
        model.decoder.register_forward_hook(lambda *_: decoded.append(1))
    for name, wanted, expected in (("gated", formats, may), ("told", tuple(WRITERS), 8), ("plain", formats, 8)):
        if name == "plain":
            monkeypatch.setattr(predictor_module, "MOST_PIXELS", 0)  # as for batches with too many features to hold
        decoded.clear()
        with intra_op_threads(threads):
            predict_folder(predictor, FolderJob(str(images), str(tmp_path / name), wanted), {})
        assert len(decoded) == 2 * members * expected
    for name in ("predictions.jsonl", "table.csv"):
        assert f"{probs[0, 1] / 255:.4f}"[:4] in (tmp_path / "told" / name).read_text()
        (tmp_path / "told" / name).unlink()
    assert tree_digest(tmp_path / "gated") == tree_digest(tmp_path / "plain") == tree_digest(tmp_path / "told")


def test_a_batch_is_decoded_whole_where_one_of_its_images_may_have_a_mask(images: Path) -> None:
    predictor = Predictor.from_checkpoint(make_checkpoint(0), device="cpu", pixels_per_pass=8 * SIZE[0] * SIZE[1])
    expected = predictor.predict(images)
    threshold = max(prediction.label_probs[0] for prediction in expected)
    decision = Decision((ClassDecision(),) * 2, gate="binary", binary_threshold=int(threshold))
    found = list(predictor.predict_stream(images, decision, masks_only=True))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.mask_probs, other.mask_probs)
        np.testing.assert_array_equal(one.label_probs, other.label_probs)
    nothing = Decision((ClassDecision(),) * 2, gate="binary", binary_threshold=int(threshold) + 1)
    for one, other in zip(predictor.predict_stream(images, nothing, masks_only=True), expected, strict=True):
        assert not one.mask_probs.any() and not one.label_probs[1:].any()
        assert one.label_probs[0] == other.label_probs[0]
    for one, other in zip(predictor.predict(images, nothing), expected, strict=True):
        np.testing.assert_array_equal(one.mask_probs, other.mask_probs)
