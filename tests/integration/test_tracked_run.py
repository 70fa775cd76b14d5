"""A whole run in Weights & Biases, read back from its offline file."""

import json
from pathlib import Path

import pytest
import torch

from tests.numerics.quick import quicken
from tests.tracked_runs import OfflineRun
from train.fit import main

OPTIONS = (
    "--preset smoke --phases.0.epochs 2 --phases.1.epochs 0.1 --tracking.log-every 1 --tracking.tracker wandb "
    "--runtime.workers 0 --runtime.precision no --validation.tta --model.encoder tu-test_resnet "
    "--model.decoder-channels 8 8"
).split()
"""9 training images: 3 steps of 8 in 2 epochs, and one more step."""


@pytest.mark.usefixtures("fresh_accelerate", "no_wandb_account")
def test_a_run_is_in_its_tracker(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)
    torch.set_num_threads(1)
    out = tmp_path / "run"
    assert main([*OPTIONS, "--data", str(tiny_shards), "--out", str(out)]) == 0
    run = OfflineRun(out)
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    metrics = json.loads((out / "validation.json").read_text())

    for name, kind, key in (
        ("train/loss", "train", "loss"),
        ("train/loss_segmentation", "train", "loss_segmentation"),
        ("train/lr", "train", "lr"),
        ("system/images_per_second", "train", "images_per_second"),
        ("system/data_wait", "train", "data_wait"),
        ("val/loss", "validation", "loss"),
        ("val/mean_dice_cross_fitted", "validation", "mean_dice_cross_fitted"),
    ):
        expected = [record[key] for record in records if record["kind"] == kind]
        assert run.values(name) == expected and expected, name
    figures = [row for row in run.history if "train/loss" in row]
    assert [row["global_step"] for row in figures] == [1, 2, 3, 4]
    assert [row["epoch"] for row in figures] == [0.8889, 1.7778, 2.6667, 3.5556]  # the second phase goes on from there
    assert [row["train/phase"] for row in figures] == [1, 1, 1, 2]

    validations = sum(record["kind"] == "validation" for record in records)
    shown = run.values("val/examples")
    assert len(shown) == validations and shown[0]["count"] == 4
    assert all(set(layers) == {"true", "predicted", "probability"} for layers in shown[0]["all_masks"])

    worst = run.table("val/worst")
    assert len(worst["data"]) == 9  # all that validate
    assert {"image_id", "result", "dice", "dice class 1", "p any", "true pixels class 4"} <= set(worst["columns"])
    dice = [row[worst["columns"].index("dice")] for row in worst["data"]]
    assert dice == sorted(dice)
    assert sum(dice) / 9 == pytest.approx(metrics["mean_dice"], abs=1e-6)
    confusion = run.table("val/confusion_table")["data"]
    positives = {name: num for name, num in metrics["true_images_per_class"].items() if num}
    assert {row[0] for row in confusion} == {"none", "class 1", "class 2", "class 3", "class 4"}
    assert {row[0] for row in run.table("val/precision_recall_table")["data"]} == {"any", *positives}

    assert run.summary["tuned/mean_dice"] == metrics["mean_dice"]
    assert run.summary["verdict"] == metrics["verdict"]["sentence"]
    assert run.summary["decision/gate"] == metrics["decision"]["gate"]
    assert run.summary["status"] == "finished"
    assert "gates/none/binary_threshold" in run.summary

    files = {kind: {Path(e.path).name for e in run.artifacts[kind].manifest.contents} for kind in run.artifacts}
    assert files["model"] == {"model.safetensors"}
    assert {"report.txt", "validation.json", "model_card.md"} <= files["report"]
    assert files["dataset"] == {"manifest.json"}
    data, model = (json.loads(run.artifacts[kind].metadata) for kind in ("dataset", "model"))
    assert data["digest"] == model["data_digest"]
    assert (data["images"], data["train_images"], data["validation_images"]) == (27, 9, 9)
    assert model["mean_dice"] == metrics["mean_dice"]
