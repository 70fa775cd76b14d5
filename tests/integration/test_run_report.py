"""What a run says of itself at its end, and how a phase that gets no better ends before its time."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steel.checkpoint import load_checkpoint, read_header
from steel.model.network import UnifiedModel
from steel.shards.reader import ShardReader
from tests.numerics.quick import quicken
from train.fit import main

OPTIONS = (
    "--preset smoke --phases.0.lr 1e-9 --phases.1.lr 1e-9 --tracking.tracker none --tracking.log-every 1 "
    "--runtime.workers 0 --runtime.precision no --validation.tta --optim.ema-decay 0 --model.encoder tu-test_resnet "
    "--model.decoder-channels 8 8"
).split()
"""It learns nothing, so that every validation scores the same. 9 training images, in steps of 8."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)


def steps_of(out: Path, kind: str) -> list[tuple[int, int]]:
    """(phase, step) of the history's records of a kind."""
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [(record["phase"], record["step"]) for record in records if record["kind"] == kind]


@pytest.mark.parametrize(("every", "logged"), [(1, [1, 2, 3, 4]), (3, [3, 4])])
def test_a_phase_without_progress_ends_early(tiny_shards: Path, tmp_path: Path, every: int, logged: list[int]) -> None:
    """5 epochs are 6 steps; epochs end within steps 2, 3 and 4, and two more validations bring nothing."""
    options = ["--phases.0.epochs", "5", "--phases.1.epochs", "0.1", "--validation.patience", "2"]
    options += ["--tracking.log-every", str(every)]
    assert main([*OPTIONS, *options, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    assert steps_of(tmp_path, "train") == [*((0, step) for step in logged), (1, 1)]
    assert steps_of(tmp_path, "validation") == [(0, 2), (0, 3), (0, 4), (1, 1)]
    (line,) = [line for line in (tmp_path / "report.txt").read_text().splitlines() if "stopped early" in line]
    assert line.startswith(
        "phase crops stopped early after 3.6 of 5 epochs: 2 validations in a row brought no better score than 0."
    )


def test_the_report(tiny_data: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--phases.0.epochs", "2", "--phases.1.epochs", "0.1", "--optim.average-top-k", "2"]
    assert main([*OPTIONS, *options, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "model_card.md").read_text().startswith("# Model card")
    lines = (tmp_path / "report.txt").read_text().splitlines()
    metrics = json.loads((tmp_path / "validation.json").read_text())
    assert lines[0] == metrics["verdict"]["sentence"]

    told = capsys.readouterr().err.splitlines()
    assert (
        told[0]
        == "training Unet with tu-test_resnet on 9 images of 4 classes; 9 images validate, 9 are kept for a test"
    )
    assert "phase 1 of 2, crops: 2 epochs, 3 steps of 8 images of 32x64, 2 validations" in told
    end = told[told.index(lines[0]) :]
    assert len(end) <= 12
    assert end[1].startswith("shipped: weights at the end, ")
    assert end[2].split() == "class images true predicted Dice positive Dice".split()
    assert {line.rsplit(maxsplit=4)[0]: float(line.split()[-2]) for line in end[3:7]} == {
        name: round(dice, 4) for name, dice in metrics["dice_per_class"].items()
    }
    assert end[7].startswith("took 0:")
    assert [line.split()[:2] for line in end[8:]] == [
        ["model", f"{tmp_path / 'model.safetensors'},"],
        ["report", f"{tmp_path / 'report.txt'},"],
        ["next", "python"],
    ]

    index = ShardReader(str(tiny_shards)).index
    training = {Path(index.image_id(row)).name for row in index.rows([2])}
    images_of: dict[str, set[str]] = defaultdict(set)
    with (tiny_data / "train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["EncodedPixels"] and row["ImageId"] in training:
                images_of[row["ClassId"]].add(row["ImageId"])
    clean = len(training - set().union(*images_of.values()))
    classes = ", ".join(f"class {k} in {len(images_of[str(k)])}" for k in range(1, 5))
    assert lines[1].startswith(f"trained on 9 images: {clean} clean, {classes}")
    assert lines[2].startswith("phase crops: every image once an epoch; ") and lines[3].startswith("phase full: ")
    assert lines[4] == "no phase stopped early"

    scores = load_checkpoint(tmp_path / "model.safetensors").provenance["candidates"]
    best = max(scores.values())
    # Validated after steps 2 and 3 of the first phase and the only one of the second, which are the weights at the end.
    assert list(scores) == ["weights at the end", "average of the 2 best epochs"]
    (shipped,) = [line for line in lines if line.startswith("shipped: ")]
    assert shipped.startswith(f"shipped: weights at the end, cross-fitted mean Dice {best:.4f} on the validation folds")
    names = {path.name for path in (tmp_path / "top_checkpoints").iterdir()}
    assert names >= {"000001-00000001.safetensors", "000000-00000003.safetensors"}  # of equal ones, the latest


def test_an_equal_average_is_one_of_the_weights_that_may_be_shipped(tiny_shards: Path, tmp_path: Path) -> None:
    """And the last ones, where there is one; each phase has one validation here."""
    options = ["--phases.0.epochs", "1", "--phases.1.epochs", "1", "--optim.swa"]
    assert main([*OPTIONS, *options, "--data", str(tiny_shards), "--out", str(tmp_path)]) == 0
    last = load_checkpoint(tmp_path / "last.safetensors")
    candidates = list(last.provenance["candidates"])
    assert candidates[:2] == ["equal average of the last phase", "weights at the end"]
    assert last.provenance["weights"] == candidates[0]
    report = (tmp_path / "report.txt").read_text()
    assert candidates[0] in report


def test_what_deep_supervision_needs_is_not_shipped(tiny_shards: Path, tmp_path: Path) -> None:
    """The files have the tensors of a run without it, and answer with the weights that were trained."""
    options = ["--phases.0.epochs", "1", "--phases.1.epochs", "0.1", "--phases.0.lr", "1e-3"]
    for out, stages in (("plain", "0"), ("deep", "1")):
        more = [*options, "--model.deep-supervision", stages]
        assert main([*OPTIONS, *more, "--data", str(tiny_shards), "--out", str(tmp_path / out)]) == 0
    plain, deep = (load_checkpoint(tmp_path / out / "model.safetensors") for out in ("plain", "deep"))
    assert deep.network == plain.network
    for name in ("model", "last"):
        headers = [read_header(tmp_path / out / f"{name}.safetensors") for out in ("plain", "deep")]
        assert list(headers[0]["tensors"].items()) == list(headers[1]["tensors"].items())
    state = load_file(max((tmp_path / "deep" / "states").iterdir()) / "tensors.safetensors")
    assert any(key.startswith("stage_heads.") for key in state)
    shipped, trained = UnifiedModel(deep.network).eval(), UnifiedModel(deep.network).eval()
    shipped.load_state_dict(deep.member_state(0))
    trained.load_state_dict({key.removeprefix("model."): t for key, t in state.items() if key.startswith("model.")})
    images = torch.randn(1, deep.network.in_channels, 40, 56)
    with torch.no_grad():
        for found, expected in zip(shipped(images).values(), trained(images).values(), strict=True):
            assert found.equal(expected)
    records = [json.loads(line) for line in (tmp_path / "deep" / "history.jsonl").read_text().splitlines()]
    for record in records:
        parts = {name for name in record if name.startswith("loss_")}
        assert parts == {"loss_segmentation", "loss_classification"} | (
            {"loss_deep_supervision"} if record["kind"] == "train" else set()
        )
        assert record["loss"] == pytest.approx(sum(record[name] for name in parts))
