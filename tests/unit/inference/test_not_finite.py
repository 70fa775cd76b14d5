"""A network that computes what is not finite says nothing of an image; that must never come out as a clean one."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import steel.checkpoint
from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, stack_members
from steel.cli import main
from steel.config import TilingConfig
from steel.decision import ClassDecision, Decision
from steel.distributed.runtime import start
from steel.errors import InputError, NotFiniteError
from steel.inference.onnx_predictor import OnnxPredictor, make_session
from steel.inference.predictor import Predictor
from steel.inference.sources import NamedImage
from steel.shards.reader import ShardReader
from tests.random_members import make_member
from train.engine.run_inference import collect_statistics

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 96), np.uint8)
TILED = TilingConfig(tile=32, overlap=16, budget=32 * 32)
SAID = r"line/a\.png: the network's answer is not finite"


def nan_in(*names: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def put(tensors: dict[str, torch.Tensor]) -> None:
        for name in names:
            tensors[name].view(-1)[0] = torch.nan

    return put


def far_below(tensors: dict[str, torch.Tensor]) -> None:
    """Logits of minus infinity, the sigmoid of which is 0, and no NaN: the labels rely on the mask's peak."""
    tensors["segmentation_head.0.bias"].fill_(-torch.inf)
    tensors["classification_head.reliance"].fill_(0.5)


FAULTS = {
    "encoder": nan_in("encoder.model.conv1.0.weight"),
    "statistics": nan_in("encoder.model.bn1.running_var"),
    "decoder alone": nan_in("segmentation_head.0.bias"),
    "overflow": far_below,
}


def broken(fault: str, **changes: object) -> Checkpoint:
    checkpoint = make_member(0, **changes)
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    FAULTS[fault](tensors)
    return replace(checkpoint, tensors=tensors)


def gated(any_threshold: int) -> Decision:
    return Decision((ClassDecision(),) * 2, gate="binary", binary_threshold=any_threshold)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tiling", [TilingConfig(), TILED], ids=["whole", "tiles"])
@pytest.mark.parametrize("members", [1, 2])
def test_no_path_of_a_checkpoint_says_clean(fault: str, tiling: TilingConfig, members: int) -> None:
    """An ensemble with one such member says nothing, either, with flips. Gated, encoders may be all that runs."""
    checkpoint = replace(stack_members([make_member(1), broken(fault)][-members:]), tiling=tiling)
    tta = ("hflip",) * (members - 1)
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", tta=tta, precision="no")
    images = [NamedImage("line/a.png", IMAGE)]
    with pytest.raises(NotFiniteError, match=f"^{SAID}; its weights are damaged"):
        predictor.predict(images)
    with pytest.raises(NotFiniteError, match=SAID):
        list(predictor.predict_stream(images, gated(0), masks_only=True))
    if fault in ("encoder", "statistics"):
        with pytest.raises(NotFiniteError, match=SAID):
            list(predictor.predict_stream(images, gated(255), masks_only=True))


def test_half_precision_is_named_with_what_helps() -> None:
    predictor = Predictor.from_checkpoint(make_member(0), device="cpu", precision="no")
    predictor.precision = "fp16"  # which is for GPUs
    assert re.search("not finite in fp16; .*--precision bf16 or no", str(predictor.not_finite("a.png")))


def test_a_broken_filler_of_a_batch_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two places one is black, so that a batch has its shape."""
    predictor = Predictor.from_checkpoint(make_member(0), device="cpu", pixels_per_pass=2 * IMAGE.size)
    (model,) = predictor.models

    def forward(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        masks = torch.where(inputs.amax(dim=(1, 2, 3), keepdim=True) < 0, torch.nan, torch.zeros(1, 2, 1, 1))
        return {"segmentation": masks.expand(-1, -1, *inputs.shape[-2:]), "classification": masks.new_zeros(2, 3)}

    monkeypatch.setattr(model, "forward_padded", forward)
    assert not predictor.probabilities(torch.zeros(2, 1, 64, 96, dtype=torch.uint8)).is_finite.any()
    assert len(predictor.predict([NamedImage("line/a.png", IMAGE)])) == 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tiling", [TilingConfig(), TILED], ids=["whole", "tiles"])
def test_no_graph_says_clean(fault: str, tiling: TilingConfig) -> None:
    """One of before such weights were refused; today, exporting them is an error."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from steel.checkpoint_header import METADATA_KEY, parse_metadata
    from steel.inference.onnx_export import OnnxModel, _export, make_onnx
    from steel.inference.predictor import build_models

    checkpoint = replace(broken(fault), tiling=tiling)
    with pytest.raises(InputError, match="not finite"):
        make_onnx(checkpoint)
    model = OnnxModel(build_models(checkpoint), checkpoint, ("hflip",)).eval()
    session = make_session(_export(model, checkpoint, (67, 101), ("hflip",)))
    header = parse_metadata("graph", session.get_modelmeta().custom_metadata_map[METADATA_KEY])[1]
    with pytest.raises(NotFiniteError, match=SAID):
        OnnxPredictor(session, header, device="cpu").predict([NamedImage("line/a.png", IMAGE)])


@pytest.mark.parametrize("stored", ["a NaN", "weights that overflow"])
def test_the_command_line_says_so_and_writes_no_predictions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: str
) -> None:
    checkpoint, path = load_checkpoint(folder / "model.safetensors"), tmp_path / "model.safetensors"
    head = checkpoint.tensors["segmentation_head.0.weight"]
    with monkeypatch.context() as before:
        before.setattr(steel.checkpoint, "_not_finite", lambda tensors: None)
        if stored == "a NaN":
            head.view(-1)[0] = torch.nan
        else:
            head.copy_(head.sign() * 3e38)
        save_checkpoint(path, checkpoint)
    code = main(["predict", str(path), str(folder / "images"), "--out", str(tmp_path / "out"), "--device", "cpu"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    wanted = {
        "a NaN": rf"error: {path}: numbers in its segmentation_head\.0\.weight are not finite",
        "weights that overflow": r"error: \S+: the network's answer is not finite.*take another checkpoint",
    }
    assert re.match(wanted[stored], line)
    assert not list((tmp_path / "out").glob("*.csv")) and not list((tmp_path / "out").glob("*.jsonl"))


@pytest.mark.parametrize("fault", ["encoder", "decoder alone"])
def test_an_evaluation_has_no_score_of_it(fault: str, tiny_shards: Path) -> None:
    reader, runtime = ShardReader(str(tiny_shards)), start("no", cpu=True)
    predictor = Predictor.from_checkpoint(broken(fault), device="cpu", precision="no")
    with pytest.raises(NotFiniteError) as caught:
        collect_statistics(predictor, reader, np.arange(3), runtime, decision=None, workers=0)
    assert any(str(caught.value).startswith(f"{reader.index.image_id(row)}: ") for row in range(3))
