"""`train.predict` launched as a user does: every image once, and the bytes of `steel predict`."""

import dataclasses
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from steel.cli import main as steel
from steel.config import NetworkConfig, TilingConfig
from steel.model.network import UnifiedModel
from tests.distributed.launching import run
from tests.image_folder import tree_digest
from train.predict import main as train_predict

FORMATS = "kaggle,coco,jsonl,table,masks,overlays"
TRACER = """
import os
import signal
import uuid
from steel.extensions import register
from steel.inference.writers import WRITERS, FolderWriter

def trace(prediction):
    "A file for each time that an image is predicted; the process may be killed at one of them."
    if prediction.image_id == os.environ.get("KILLED_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    path = os.path.join(os.environ["TRACES"], f"{prediction.image_id}.{uuid.uuid4().hex}")
    with open(path, "x") as file:
        file.write(os.environ.get("RANK", "0"))
    return iter(())

register(WRITERS, "trace", FolderWriter("who predicted it", "trace", trace))
"""
REPLACED = """
import os
from steel import storage

read = storage.read_bytes
if os.environ["RANK"] == "1":
    storage.read_bytes = lambda path: read(path.replace("model.safetensors", "later.safetensors"))
"""
"""Rank 1 reads the checkpoint after it was replaced."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`model.safetensors`, `images/` of several sizes, one of them cut, and `tracer.py`."""
    torch.manual_seed(0)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    tensors = {name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()}
    save_checkpoint(tmp_path / "model.safetensors", Checkpoint(network, ("a", "b"), (0.4,), (0.2,), tensors))
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(11):
        size = (40 + number % 3, 64 if number % 2 else 90)
        cv2.imwrite(str(tmp_path / "images" / f"{number:02d}.png"), rng.integers(0, 256, size, dtype=np.uint8))
    cut = tmp_path / "images" / "06.png"
    cut.write_bytes(cut.read_bytes()[:500])
    (tmp_path / "tracer.py").write_text(TRACER)
    (tmp_path / "traces").mkdir()
    return tmp_path


def test_two_ranks_write_what_one_writes_each_image_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [str(folder / "model.safetensors"), str(folder / "images"), "--pixels-per-pass", "8000"]
    assert steel(["predict", *line, "--out", str(folder / "one"), "--format", FORMATS, "--device", "cpu"]) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    variables = {"STEEL_EXTENSIONS": str(folder / "tracer.py"), "TRACES": str(folder / "traces")}
    out = ["--out", folder / "two", "--format", f"{FORMATS},trace"]
    done = run(1, "train", "predict", *line, *out, "--processes", "2", check=False, **variables)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1] == said
    assert "warning: left out 1 unreadable image: 06.png (damaged PNG" in said
    assert "10 images; " in done.stdout
    assert tree_digest(folder / "two") == tree_digest(folder / "one")
    traces = list((folder / "traces").iterdir())
    assert sorted(path.name[:6] for path in traces) == [f"{number:02d}.png" for number in range(11) if number != 6]
    assert {path.read_text() for path in traces} == {"0", "1"}


def test_a_lost_rank_ends_the_job_and_one_process_goes_on(folder: Path) -> None:
    line = [folder / "model.safetensors", folder / "images", "--pixels-per-pass", "8000", "--out", folder / "out"]
    line += ["--format", f"{FORMATS},trace"]
    variables = {"STEEL_EXTENSIONS": str(folder / "tracer.py"), "TRACES": str(folder / "traces")}
    done = run(2, "train.predict", *line, check=False, KILLED_AT="03.png", **variables)
    assert done.returncode != 0
    assert [path.name for path in (folder / "out").iterdir() if path.is_file()] == []
    done = run(1, "train.predict", *line, check=False, **variables)
    assert done.returncode == 3, done.stderr
    assert steel(["predict", *map(str, line[:4]), "--out", str(folder / "one"), "--format", FORMATS]) == 3
    assert tree_digest(folder / "out") == tree_digest(folder / "one")


def test_a_checkpoint_that_is_replaced_while_the_ranks_read_it_is_refused(folder: Path) -> None:
    """One job would be written by the weights of both."""
    model = load_checkpoint(folder / "model.safetensors")
    later = {name: tensor + 1 for name, tensor in model.tensors.items()}
    save_checkpoint(folder / "later.safetensors", dataclasses.replace(model, tensors=later))
    (folder / "replaced.py").write_text(REPLACED)
    line = [folder / "model.safetensors", folder / "images", "--out", folder / "out"]
    done = run(2, "train.predict", *line, check=False, STEEL_EXTENSIONS=str(folder / "replaced.py"))
    said = f"error: {folder}/model.safetensors: the ranks have read different files; it was replaced meanwhile, or"
    assert done.returncode != 0 and done.stderr.count("error: ") == done.stderr.count(said) == 1, done.stderr
    assert not (folder / "out").exists()


def test_it_takes_an_exported_graph_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    graph = str(folder / "model.onnx")
    assert steel(["export", str(folder / "model.safetensors"), "--onnx", graph]) == 0
    line = [graph, str(folder / "images"), "--format", "kaggle,jsonl"]
    assert steel(["predict", *line, "--out", str(folder / "one"), "--device", "cpu"]) == 3
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert train_predict([*line, "--out", str(folder / "other")]) == 3
    assert tree_digest(folder / "one") == tree_digest(folder / "other")


def test_progress_over_the_tiles_of_a_large_image_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 64x90 pixels, tiles of 64x64 that share 16 are 2; by either program, on a terminal."""
    whole = load_checkpoint(folder / "model.safetensors")
    tiling = TilingConfig(budget=64 * 64, tile=64, overlap=16)
    save_checkpoint(folder / "tiled.safetensors", dataclasses.replace(whole, tiling=tiling))
    cv2.imwrite(str(folder / "large.png"), np.zeros((64, 90), np.uint8))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = [str(folder / "tiled.safetensors"), str(folder / "large.png"), "--out"]
    for name, program in (("one", lambda arguments: steel(["predict", *arguments])), ("other", train_predict)):
        assert program([*line, str(folder / name)]) == 0
        assert "large image:   0%|          | 0/2 [" in capsys.readouterr().err, name
