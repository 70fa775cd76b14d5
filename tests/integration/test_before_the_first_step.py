"""A run that could not go through says so before its first step, and leaves a folder that a mended one may use."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train.crossval
import train.fit
from steel.errors import InputError, run_program
from tests.distributed.launching import run
from tests.numerics.quick import quicken
from train.engine.step import TrainingState

OPTIONS = (
    "--preset smoke --phases.0.epochs 3 --phases.1.epochs 0.1 --tracking.tracker none --tracking.log-every 3 "
    "--runtime.workers 0 --runtime.precision no --validation.tta --validation.every-epochs 100"
).split()
"""4 steps of 8 of 9 images, and one."""
TOO_SMALL = (
    "--model.architecture DeepLabV3Plus --model.encoder tu-test_resnet --model.decoder-channels None "
    "--optim.ema-decay 0 --phases.1.micro-batch 1"
).split()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)


def errors_of(main: Callable[[list[str]], int], options: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    code = run_program(lambda: main(options))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == (2 if lines else 0)
    return lines


def test_a_phase_that_cannot_work(tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*OPTIONS, *TOO_SMALL, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    (line,) = errors_of(train.fit.main, options, capsys)
    assert "phase full: phases.1.micro-batch 1 leaves a BatchNorm layer of DeepLabV3Plus" in line
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and "phases.1.micro-batch 1" in status["reason"]
    assert (tmp_path / "run" / "history.jsonl").read_text() == ""

    assert errors_of(train.fit.main, [*options, "--phases.1.micro-batch", "2"], capsys) == []
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    # No moving average was asked for.
    (state,) = (tmp_path / "run" / "states").glob("000001-*/tensors.safetensors")
    assert [name for name in load_file(state) if name.startswith("average")] == []
    assert "moving average" not in (tmp_path / "run" / "report.txt").read_text()


def test_weights_that_are_not_there_are_told_before_the_network_is_made(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.fit.UnifiedModel", pytest.fail)
    weights = str(tmp_path / "nope.pth")
    options = [*OPTIONS, "--model.weights", weights, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    (line,) = errors_of(train.fit.main, options, capsys)
    assert line == f"error: model.weights {weights}: no such file (or hub, none, a URL)"


def test_a_member_of_a_cross_validation(tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = errors_of(
        train.crossval.main, [*OPTIONS, *TOO_SMALL, "--data", str(tiny_shards), "--out", str(tmp_path)], capsys
    )
    assert "phase full: phases.1.micro-batch 1 leaves a BatchNorm layer of DeepLabV3Plus" in line
    assert (tmp_path / "fold-0" / "history.jsonl").read_text() == "" and not (tmp_path / "fold-1").exists()


@pytest.mark.slow
def test_no_rank_is_left_waiting(tiny_shards: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, *TOO_SMALL, "--phases.1.batch-size", "2", "--data", tiny_shards, "--out", tmp_path / "run"]
    done = run(2, "train.fit", *options, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(lines) == 1 and "phases.1.micro-batch 1" in lines[0], done.stderr


def test_what_will_be_trained_is_said_before_anything_takes_its_time(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the network is made, its weights are fetched and the tracker is started."""

    def refuse(*_: object) -> None:
        raise InputError("the tracker")

    monkeypatch.setattr("train.fit.open_metric_logger", refuse)
    options = [*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    assert run_program(lambda: train.fit.main(options)) == 2
    first, processes, *_, crops, full, error = capsys.readouterr().err.splitlines()
    assert first.startswith("training Unet with resnet18 on 9 images of 4 classes")
    assert crops.startswith("phase 1 of 2, crops: 3 epochs, 4 steps of 8 images of 32x64, 1 validation")
    assert full.startswith("phase 2 of 2, full: 0.1 epochs, 1 step of 8 images of 64x160, 1 validation")
    assert processes == "1 process on cpu, mixed precision: no"
    assert error == "error: the tracker"


def test_images_per_second_of_a_real_run(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 0.1 s at least, so none trains more than 80 images per second; nor less than the whole run took."""
    step = TrainingState.step

    def slow_step(*arguments: Any) -> Any:
        time.sleep(0.1)
        return step(*arguments)

    monkeypatch.setattr(TrainingState, "step", slow_step)
    begun = time.perf_counter()
    assert train.fit.main([*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    seconds = time.perf_counter() - begun
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    rates = [record["images_per_second"] for record in records if record["kind"] == "train"]
    assert len(rates) == 3  # of three steps, of the one left over in the phase, and of the second phase's only one
    assert all(0 < rate < 80 for rate in rates)
    assert sum(8 * steps / rate for steps, rate in zip((3, 1, 1), rates, strict=True)) < seconds
