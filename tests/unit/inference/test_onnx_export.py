"""The exported graph, run by onnxruntime, against the predictor: the same answers at every size, within a rounding."""

import itertools
import json

import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, stack_members
from steel.config import NetworkConfig, TilingConfig
from steel.errors import InputError
from steel.inference import onnx_export
from steel.inference.label_head import LabelPool, decode_head, encode_head
from steel.inference.onnx_export import OnnxModel, export_onnx
from steel.inference.predictor import Predictor
from steel.inference.tiles import Blender, Tile, is_tiled, make_tiles
from steel.model.network import UnifiedModel
from steel.model.tta import average_probs
from steel.views import VIEWS

SIZES = [
    (8, 8),
    (1, 1),
    (1, 9),
    (3, 100),
    (7, 7),
    (31, 33),
    (37, 50),
    (63, 32),
    (40, 17),
    (64, 96),
    (101, 35),
    (16, 129),
]
"""Smaller than the stride, no multiples of it, odd and even, single rows, and whole strides."""
TTA_SETS = [views for n in range(len(VIEWS) + 1) for views in itertools.combinations(VIEWS, n)]


def make_checkpoint(seed, architecture="Unet", in_channels=1, encoder="tu-test_resnet", widths=(8, 8)):
    torch.manual_seed(seed)
    network = NetworkConfig(architecture, encoder, 2, in_channels, widths if architecture == "Unet" else None)
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)  # so that masks are not all of one value
    return Checkpoint(
        network=network,
        class_names=("spot", "trace"),
        mean=(0.4, 0.5, 0.6)[:in_channels],
        std=(0.2, 0.25, 0.3)[:in_channels],
        tensors={name: tensor.detach()[None] for name, tensor in model.state_dict().items()},
        tiling=TilingConfig(budget=13000, tile=64, overlap=32),  # larger than all of SIZES
    )


CASES = {
    "gray": lambda: make_checkpoint(0),
    "colour": lambda: make_checkpoint(1, in_channels=3),
    "ensemble": lambda: stack_members([make_checkpoint(0), make_checkpoint(2)]),
    "FPN": lambda: make_checkpoint(3, "FPN"),
    "DeepLabV3Plus": lambda: make_checkpoint(4, "DeepLabV3Plus", in_channels=3),
    "same padding": lambda: make_checkpoint(5, encoder="tu-tf_efficientnet_lite0", widths=(8, 8, 8, 8, 8)),
}
FAST = [("gray", ("hflip", "vflip", "hvflip"))]
SLOW = [("gray", views) for views in TTA_SETS] + [(name, ("hflip", "hvflip")) for name in CASES if name != "gray"]


def largest_difference(session, predictor, size, seed):
    """Over all probabilities of an image of `size`, in steps of 255; and how many different values there were."""
    shape = size if predictor.in_channels == 1 else (*size, 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    (expected,) = predictor.predict([image])
    planes = image[None, None] if image.ndim == 2 else image.transpose(2, 0, 1)[None]
    found = session.run(["mask_probs", "label_probs"], {"images": planes})
    differences = []
    for theirs, own in zip(found, (expected.mask_probs, expected.label_probs), strict=True):
        assert theirs.dtype == np.uint8
        assert theirs[0].shape == own.shape
        differences.append(np.abs(theirs[0].astype(int) - own).max())
    return max(differences), len(np.unique(expected.mask_probs))


def compare_in_tiles(session, checkpoint, views):
    """What the docs tell users of the graph to do with a large image, from the metadata alone and with numpy."""
    said = json.loads(session.get_modelmeta().custom_metadata_map["steel"])["content"]
    tiling, stride = TilingConfig(**said["tiling"]), said["stride"]
    image = np.random.default_rng(9).integers(0, 256, (70, 199), dtype=np.uint8)
    in_tiles = Predictor.from_checkpoint(checkpoint, device="cpu", precision="no", tta=views)
    (expected,) = in_tiles.predict([image])
    assert is_tiled(*image.shape, tiling, stride)
    padded = np.pad(image, [(0, -side % stride) for side in image.shape], mode="reflect")
    blender = Blender(2, *padded.shape)
    heads = [decode_head(text, 2) for text in said["label_heads"] for _ in range(1 + len(views))]
    labels = LabelPool(heads)
    for rows, columns in make_tiles(*padded.shape, tiling, stride):
        part = padded[None, None, rows.start : rows.stop, columns.start : columns.stop]
        mask_probs, features, mask_peaks = session.run(["mask_probs", "features", "mask_peaks"], {"images": part})
        blender.add(Tile(rows, columns), mask_probs[0] / np.float32(255))
        labels.add(Tile(rows, columns), features[0], mask_peaks[0])
    found = blender.finish()[:, :70, :199]
    assert np.ptp(found) > 20
    assert np.abs(found.astype(int) - expected.mask_probs).max() <= 1
    assert np.abs(labels.label_probs().astype(int) - expected.label_probs).max() <= 1


@pytest.mark.parametrize(
    ("name", "views"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in FAST)]
)
def test_the_graph_answers_as_the_predictor_at_every_size(tmp_path, name, views):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    checkpoint = CASES[name]()
    export_onnx(checkpoint, tmp_path / "model.onnx", views)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", precision="no", tta=views)
    for seed, size in enumerate(SIZES):
        difference, num_values = largest_difference(session, predictor, size, seed)
        assert difference <= 1, size
        assert num_values > 20 or size[0] * size[1] < 1000, (size, num_values)
    if predictor.in_channels == 1:
        compare_in_tiles(session, checkpoint, views)


def test_a_graph_that_answers_differently_at_some_size_is_refused(tmp_path, monkeypatch):
    """Such as one that flips before it pads: right wherever the size is a multiple of the stride, and nowhere else."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def flip_then_pad(self, images):
        inputs = torch.addcmul(self.shift, images.float(), self.scale)
        plain, flipped = self.members[0](inputs), self.members[0](inputs.flip(-1))
        mask_probs, label_probs, _ = average_probs(
            (torch.sigmoid(masks), torch.sigmoid(outputs["classification"]))
            for outputs, masks in ((plain, plain["segmentation"]), (flipped, flipped["segmentation"].flip(-1)))
        )
        return mask_probs, label_probs, inputs[:, None], inputs[:, None]

    monkeypatch.setattr(OnnxModel, "forward", flip_then_pad)
    with pytest.raises(InputError, match=r"its graph predicts differently at \(13, 3\)"):
        export_onnx(make_checkpoint(0), tmp_path / "model.onnx", ("hflip",))
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_whose_labels_differ_in_tiles_is_refused(tmp_path, monkeypatch):
    """Such as one whose head in the metadata is another one than that in the graph."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx_export, "encode_head", lambda weight, *rest: encode_head(weight * 2, *rest))
    with pytest.raises(InputError, match=r"cannot be exported as ONNX: its graph predicts differently in tiles"):
        export_onnx(make_checkpoint(0), tmp_path / "model.onnx", ("hflip",))
    assert not (tmp_path / "model.onnx").exists()
