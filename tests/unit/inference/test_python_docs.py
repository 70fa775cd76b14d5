"""docs/python.md: its examples run, in order, and its table has every public name."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import steel
from steel.checkpoint import Checkpoint, save_checkpoint
from steel.config import NetworkConfig
from steel.model.network import UnifiedModel
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    tensors = {name: tensor[None] for name, tensor in UnifiedModel(network).state_dict().items()}
    save_checkpoint(tmp_path / "model.safetensors", Checkpoint(network, ("pit", "dent"), (0.4,), (0.2,), tensors))
    monkeypatch.chdir(tmp_path)
    Path("images/line").mkdir(parents=True)
    for name in ("a.png", "line/b.png"):
        cv2.imwrite(f"images/{name}", np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8))
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("a.png [('")
    assert said.endswith("2 0 {}\nimages/missing.png: no such file\n")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.jpg", "a.json", "a.png"]
    assert Path("predictions/coco.json").is_file()


def test_every_public_name_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE[PAGE.index("## Names") :], re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(steel.__all__)
    assert all(getattr(steel, name) is not None for name in steel.__all__)
