"""What Weights & Biases and TensorBoard have recorded, read back from their files."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steel.config import TrackingConfig
from steel.tracking.trackers import build_tracker
from steel.tracking.wandb_backend import label_masks
from tests.tracked_runs import EXAMPLES, IMAGE, OfflineRun, items

RUN_CONFIG = {"preset": "smoke", "phases": [{"lr": 0.001}]}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> OfflineRun:
    run_dir = tmp_path_factory.mktemp("tracked") / "my run"
    run_dir.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(run_dir / "wandb"))  # what the backend sets where nobody has
        tracker = build_tracker(TrackingConfig(tracker="wandb", project="steel"), run_dir, RUN_CONFIG, attempt=2)
        tracker.log({"train": {"loss": np.float32(0.5)}, "epoch": 1.5, "train/lr": 1e-3}, step=10)
        tracker.log({"val": {"dice_per_class": [0.25, None, 0.75]}}, step=20)
        for item in items(run_dir):
            tracker.show(item, step=20)
        tracker.finish("interrupted")
        tracker.finish("finished")
        tracker.log({"late": 1}, step=30)
    return OfflineRun(run_dir)


def test_an_attempt_is_a_run_in_the_jobs_group(recorded: OfflineRun) -> None:
    run = recorded.run
    assert (run.project, run.run_group, run.display_name) == ("steel", "my run", "my run-2")
    assert recorded.config["phases"] == [{"lr": 0.001}]
    assert recorded.config["attempt"] == 2


def test_figures_stand_in_namespaces_on_the_axis_of_steps(recorded: OfflineRun) -> None:
    first, second = recorded.history[:2]
    assert (first["global_step"], first["epoch"], first["train/loss"], first["train/lr"]) == (10, 1.5, 0.5, 1e-3)
    assert (second["val/dice_per_class/1"], second["val/dice_per_class/3"]) == (0.25, 0.75)
    assert "val/dice_per_class/2" not in second
    assert {name: recorded.metrics[f"{name}/*"].step_metric for name in ("train", "val", "system")} == {
        "train": "global_step",
        "val": "global_step",
        "system": "global_step",
    }
    assert recorded.metrics["val/mean_dice_cross_fitted"].summary.max
    assert recorded.metrics["train/loss"].summary.min
    assert "late" not in {name for row in recorded.history for name in row}


def test_images_have_masks_that_can_be_toggled(recorded: OfflineRun) -> None:
    (shown,) = recorded.values("val/examples")
    assert shown["captions"] == ["a.jpg · predicted: scratch"]
    (layers,) = shown["all_masks"]
    assert set(layers) == {"true", "predicted", "probability"}
    true = np.asarray(Image.open(recorded.media(layers["true"]["path"])))
    # 3 is the number of the overlap: spot and scratch in one pixel.
    assert true[0].tolist() == [1, 1, 3, 3, 3, 3] + [0] * 10
    predicted = np.asarray(Image.open(recorded.media(layers["predicted"]["path"])))
    assert np.array_equal(predicted, IMAGE.predicted)
    assert (np.asarray(Image.open(recorded.media(layers["probability"]["path"]))) == 4).all()  # 50 %: "40 to 50 %"
    labels = str(recorded.config)
    for name in ("spot", "scratch", "spot + scratch", "no defect", "40 to 50 %"):
        assert name in labels


def test_the_table_of_the_worst_has_an_image_and_every_score(recorded: OfflineRun) -> None:
    table = recorded.table("val/worst")
    assert table["columns"] == ["image", "image_id", "dice", "true"]
    ((picture, *values),) = table["data"]
    assert values == ["a.jpg", 0.25, "spot"]
    assert set(picture["masks"]) == {"true", "predicted", "probability"}
    assert all(Path(entry.local_path).is_file() for entry in recorded.artifacts["run_table"].manifest.contents)


def test_curves_and_confusion_are_native_charts(recorded: OfflineRun) -> None:
    # 4 of 10 up to 128 of 256, then 2 of 3.
    assert recorded.table("val/precision_recall_table")["data"] == [["spot", 0.6667, 0.5], ["spot", 0.4, 1.0]]
    rows = recorded.table("val/confusion_table")["data"]
    assert ["spot", "scratch", 5] in rows and len(rows) == 9
    charts = str(recorded.config)
    assert "wandb/area-under-curve/v0" in charts and "wandb/confusion_matrix/v1" in charts


def test_the_summary_has_the_final_values(recorded: OfflineRun) -> None:
    summary = recorded.summary
    assert (summary["tuned/mean_dice"], summary["verdict"], summary["status"]) == (0.75, "better", "interrupted")
    assert summary["tuned/dice_per_class/spot"] == 0.5


def test_data_and_checkpoint_are_artifacts_with_metadata(recorded: OfflineRun) -> None:
    data, model = recorded.artifacts["dataset"], recorded.artifacts["model"]
    assert (data.name, json.loads(data.metadata)) == ("shards-1", {"images": 9})
    assert [entry.path for entry in data.manifest.contents] == ["manifest.json"]
    assert [Path(entry.local_path).name for entry in model.manifest.contents] == ["model.safetensors"]
    assert json.loads(model.metadata) == {"mean_dice": 0.75}


def test_an_interrupted_run_says_so(recorded: OfflineRun) -> None:
    (exit_code,) = [r.exit.exit_code for r in recorded.records if r.HasField("exit")]
    assert exit_code != 0
    assert any(r.HasField("preempting") for r in recorded.records)


@pytest.mark.usefixtures("no_wandb_account")
def test_without_a_key_a_line_says_that_it_is_recorded_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "my run"
    run_dir.mkdir()
    tracker = build_tracker(TrackingConfig(tracker="wandb"), run_dir, RUN_CONFIG, attempt=1)
    tracker.finish("finished")
    assert "no API key" in caplog.text and f"`wandb sync '{run_dir / 'wandb'}'/offline-*`" in caplog.text


@pytest.mark.usefixtures("no_wandb_account")
def test_no_secret_of_the_command_line_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights & Biases records how the program was started."""
    monkeypatch.setattr(sys, "argv", ["fit", "--model.weights", "https://user:5ecret@host/weights.pth?sig=5ecret"])
    build_tracker(TrackingConfig(tracker="wandb"), tmp_path, RUN_CONFIG, attempt=1).finish("finished")
    recorded = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"https://host/weights.pth" in data for data in recorded)
    assert not any(b"5ecret" in data for data in recorded)


def test_tensorboard_has_the_same(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    tracker = build_tracker(TrackingConfig(tracker="tensorboard"), tmp_path, RUN_CONFIG, attempt=1)
    tracker.log({"train": {"loss": 0.5}, "phase": "crops"}, step=10)
    tracker.log({"train": {"loss": 0.25}}, step=20)
    for item in items(tmp_path):
        tracker.show(item, step=20)
    tracker.show(replace(EXAMPLES, images=[replace(IMAGE, caption="a.jpg · predicted: clean")]), step=30)
    tracker.finish("finished")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "attempt-1")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 0.5), (20, 0.25)]
    assert [e.value for e in events.Scalars("tuned/mean_dice")] == [0.75]
    # Truth above prediction, 8x16 pixels enlarged 20 times, words of 18 above each and a line of 2 between.
    # An image's pictures are one series, whatever is said of it.
    shown = [(e.step, e.height, e.width) for e in events.Images("val/examples/a.jpg")]
    assert shown == [(20, 358, 320), (30, 358, 320)]
    assert [(e.height, e.width) for e in events.Images("val/examples/a.jpg, probability")] == [(8, 16)] * 2
    assert events.Images("val/worst/1 a.jpg · predicted: scratch")
    texts = {name: str(events.Tensors(f"{name}/text_summary")[0]) for name in ("config", "val/worst", "val/confusion")}
    assert "smoke" in texts["config"]
    assert "| a.jpg | 0.25 | spot |" in texts["val/worst"]
    assert "| spot | 3 | 4 | 5 |" in texts["val/confusion"]
    (curve,) = events.Tensors("val/precision_recall/spot")
    *_, precision, recall = make_ndarray(curve.tensor_proto)
    assert (precision[0], recall[0], recall[200]) == pytest.approx((0.4, 1.0, 0.5))
    assert "model.safetensors" in str(events.Tensors("model/text_summary")[0])


def test_overlaps_have_numbers_of_their_own() -> None:
    """Bit 3 marks ignored pixels."""
    numbers, labels = label_masks([np.array([[0, 1, 2, 4, 5, 7, 8, 13]], np.uint8)], ("a", "b", "c"))
    assert labels == {0: "no defect", 1: "a", 2: "b", 3: "c", 4: "a + c", 5: "a + b + c"}
    assert numbers[[0, 1, 2, 4, 5, 7, 8, 13]].tolist() == [0, 1, 2, 3, 4, 5, 0, 4]
