"""A disk that is full when a line of the history, a state, a kept epoch or the checkpoint is written: one error,
nothing lost, resumable."""

import json
from pathlib import Path

import pytest
import torch

from steel.errors import run_program
from tests.numerics.quick import quicken
from train.fit import main

OPTIONS = (
    "--preset smoke --phases.0.epochs 1 --phases.1.epochs 0.1 --tracking.tracker none --runtime.workers 0 "
    "--runtime.precision no --validation.tta"
).split()


@pytest.mark.parametrize(
    "write",
    [
        "train.engine.metric_logger.History.append",
        "train.engine.state.save_file",
        "train.engine.top_checkpoints.write_bytes",
        "steel.checkpoint.storage.write_bytes",
    ],
)
def test_a_full_disk(
    tiny_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write: str,
) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    out = tmp_path / "run"
    options = [*OPTIONS, "--data", str(tiny_shards), "--out", str(out)]

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write, full)
        assert run_program(lambda: main(options)) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "No space left on device" in lines[0]
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "failed" and "No space left on device" in status["reason"]
    assert not (out / "model.safetensors").exists()

    assert run_program(lambda: main(options)) == 0
    assert json.loads((out / "status.json").read_text())["state"] == "finished"
    assert (out / "model.safetensors").exists()
