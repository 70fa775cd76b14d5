"""A run of `--preset auto`: what it chose is on the screen, in the report and in the checkpoint."""

from pathlib import Path

import pytest
import torch

from steel.checkpoint import load_checkpoint
from tests.numerics.quick import quicken
from train.fit import main

OPTIONS = (
    "--preset auto --phases.0.epochs 0.5 --phases.1.epochs 0.5 --model.encoder tu-test_resnet --model.weights none "
    "--model.decoder-channels 8 8 --tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta"
).split()


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    assert main([*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    config = load_checkpoint(tmp_path / "model.safetensors").provenance["config"]
    assert config["preset"] == "auto" and config["phases"][0]["crop"] == [64, 160]
    assert config["reasons"]["phases.0.crop"].startswith("the median image, 64x160")
    assert config["reasons"]["model.encoder"].startswith("tu-test_resnet, as given")
    said, report = "".join(capsys.readouterr()), (tmp_path / "report.txt").read_text()
    for option, reason in config["reasons"].items():
        assert f"auto: {option}: {reason}" in said and f"auto: {option}: {reason}" in report
