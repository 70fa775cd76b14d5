"""A run whose network finds nothing says so in the first line of all that it writes."""

import json
from pathlib import Path

import pytest

from steel.errors import InputError
from tests.numerics.quick import quicken
from tests.shard_folder import defect_mask, make_shards, steel_image
from train import crossval, evaluate

OPTIONS = (
    "--preset smoke --phases.0.epochs 1 --phases.1.epochs 1 --phases.0.lr 1e-9 --phases.1.lr 1e-9 "
    "--validation.every-epochs 1 --tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta"
).split()
"""It learns nothing: its heads stay at the frequencies of the classes, far below one half."""
WARNING = "WARNING: no better than answering nothing: mean Dice "


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, masks = [steel_image(n, 32, 64) for n in range(18)], [defect_mask(n // 3, 32, 64, 2) for n in range(18)]
    return make_shards(tmp_path_factory.mktemp("shards") / "shards", images, masks, num_classes=2, folds=3)


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_network_that_finds_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quicken(monkeypatch)
    out = tmp_path / "cross"
    assert crossval.main([*OPTIONS, "--folds.test", "2", "--data", str(shards), "--out", str(out)]) == 0
    told = capsys.readouterr().err.splitlines()

    member = out / "fold-0"
    first, *_ = (member / "report.txt").read_text().splitlines()
    metrics = json.loads((member / "validation.json").read_text())
    assert first == metrics["verdict"]["sentence"]
    assert first.startswith(WARNING)
    assert "on 6 images (cross-fitted)" in first
    assert "class 1 is never answered, though " in first
    assert metrics["verdict"]["better_than_nothing"] is False
    assert first in told
    lines = [line.partition("  validation: mean Dice ")[2] for line in told if "  validation: " in line]
    assert lines
    assert all(line[6:].startswith(" cross-fitted, ") for line in lines)
    assert all("; no better than answering nothing; never answered: class 1" in line for line in lines)
    records = [json.loads(line) for line in (member / "history.jsonl").read_text().splitlines()]
    assert {r["warning"] for r in records if r["kind"] == "validation"} == {metrics["verdict"]["warning"]}

    joined, *_ = (out / "report.txt").read_text().splitlines()
    assert joined.startswith(WARNING)
    assert "on 12 images (cross-fitted)" in joined
    assert joined in told
    assert json.loads((out / "metrics.json").read_text())["verdict"]["sentence"] == joined

    checkpoint = str(member / "model.safetensors")
    arguments = ["--checkpoint", checkpoint, "--data", str(shards), "--folds", "2", "--workers", "0"]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "test")]) == 0
    lines = capsys.readouterr().err.splitlines()
    shown, *_ = (line for line in lines if line.strip() and "img/s" not in line)  # the progress bar
    assert shown.startswith(WARNING)
    assert "on 6 images (held out)" in shown

    with pytest.raises(InputError, match=r"fold-0: a training's run folder; give a folder of its own"):
        evaluate.main([*arguments, "--tune-thresholds", "--out", str(member)])
    assert Path(checkpoint).stat().st_size > 10_000
