"""What drift is measured against, from a real training to /metrics: the checkpoint's own predictions of the fold that
its decision was tuned on, counted here one by one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import steel
from steel.checkpoint import read_header
from steel.cli import main as steel_main
from steel.decision import ClassDecision, Decision
from steel.distributed.signals import StopSignals
from steel.shards.reader import ShardReader
from steel.thresholds.tuning import Tuning
from tests.numerics.quick import COARSE, quicken
from tests.serving import serving
from train.evaluate import main as evaluate
from train.evaluate import tune_thresholds
from train.fit import main as fit

OPTIONS = (
    "--preset smoke --phases.0.epochs 1.5 --phases.1.epochs 0.1 --tracking.tracker none --runtime.workers 0 "
    "--runtime.precision no --validation.tta hflip --optim.ema-decay 0 --model.encoder tu-test_resnet "
    "--model.decoder-channels 8 8"
).split()
"""9 training images: 2 steps of the first phase and 1 of the second."""
FINDS_SOMETHING = Decision((ClassDecision(pixel_threshold=10),) * 4, tta=("hflip",))
"""In some images, by a network whose heads still are near the share of defective pixels."""


class StopInTheSecondStep(StopSignals):
    """A stop signal that comes while the second step of the first attempt is made."""

    looks = 0

    @property
    def received(self) -> bool:
        StopInTheSecondStep.looks += 1
        return self.looks == 2


def tune(*arguments: Any, **options: Any) -> Tuning:
    """As in a training, but for the decision."""
    options |= {"gates": ("none",), "space": COARSE}
    return dataclasses.replace(tune_thresholds(*arguments, **options), decision=FINDS_SOMETHING)


def attempt(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def figures_of(predictions: list[steel.Prediction]) -> dict[str, Any]:
    """What `/metrics` would say had these been the images of the line."""
    found = [bool(prediction.masks.any()) for prediction in predictions]
    means = [
        sum(int(prediction.label_probs[k]) for prediction in predictions) / len(predictions) / 255 for k in range(5)
    ]
    share = pytest.approx(sum(found) / len(found), abs=1e-6)
    return {"images": len(found), "defective_share": share, "mean_probabilities": pytest.approx(means, abs=1e-6)}


@pytest.mark.usefixtures("fresh_accelerate")
def test_from_an_interrupted_training_to_metrics(
    tiny_data: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    for place in ("train.engine.validation", "train.evaluate"):
        monkeypatch.setattr(f"{place}.tune_thresholds", tune)
    monkeypatch.setattr("train.fit.StopSignals", StopInTheSecondStep)
    run, line = tmp_path / "run", [*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    assert fit(line) == 0
    assert attempt(run)["state"] == "interrupted" and not (run / "model.safetensors").exists()
    assert fit(line) == 0
    assert (attempt(run)["state"], attempt(run)["attempt"]) == ("finished", 2)

    index = ShardReader(str(tiny_shards)).index

    def expected_of(model: Path, fold: int) -> dict[str, Any]:
        files = [tiny_data / "train_images" / index.image_id(row) for row in index.rows([fold])]
        return figures_of(steel.load_predictor(model, device="cpu", precision="no").predict(files))

    expected = expected_of(run / "model.safetensors", 0)
    validation = read_header(run / "model.safetensors")["provenance"]["validation"]
    assert validation == expected
    assert validation["images"] == 9 and validation["defective_share"] > 0
    assert read_header(run / "last.safetensors")["provenance"]["validation"] == expected_of(run / "last.safetensors", 0)

    tuned = ["--checkpoint", str(run / "model.safetensors"), "--data", str(tiny_shards), "--folds", "1"]
    evaluate([*tuned, "--tune-thresholds", "--precision", "no", "--out", str(tmp_path / "tuned"), "--workers", "0"])
    of_tuned = read_header(tmp_path / "tuned" / "model.safetensors")
    assert of_tuned["folds"]["tuning"] == [0, 1]  # fold 0 chose the weights, and is held out from nothing
    tuned_on_another = of_tuned["provenance"]["validation"]
    assert tuned_on_another == expected_of(tmp_path / "tuned" / "model.safetensors", 1) != validation

    for package in ("onnxruntime", "onnxscript", "starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    graph = run / "model.onnx"
    assert steel_main(["export", str(run / "model.safetensors"), "--onnx", str(graph)]) == 0
    with serving(graph) as server:
        assert server.ask("/info").json["validation"] == validation
        assert server.metric("steel_validation_defective_share") == validation["defective_share"]
        names = ("any", "class 1", "class 2", "class 3", "class 4")
        for target, value in zip(names, validation["mean_probabilities"], strict=True):
            assert server.metric(f'steel_validation_mean_probability{{target="{target}"}}') == value
        assert server.stop() == 0
