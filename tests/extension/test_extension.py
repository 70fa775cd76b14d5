"""A stranger's extension (`plant.py`) on two ranks: what it registers is trained with, resumed and found everywhere.

The package is not touched: `STEEL_EXTENSIONS` names the file.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from steel.errors import InputError
from steel.inference.predictor import Predictor
from steel.reports.plots import draw_history
from tests.paths import ROOT
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine.metric_logger import TIMED
from train.evaluate import main as evaluate

PLANT = ROOT / "tests" / "extension" / "plant.py"
TRAIN = (
    "--preset smoke --phases.0.epochs 2 --phases.1.epochs 1 --phases.0.batch-size 4 --phases.1.batch-size 4 "
    "--validation.every-epochs 100 --validation.tta --optim.ema-decay 0 --tracking.log-every 1 --runtime.workers 0 "
    "--runtime.precision no --phases.0.warmup 0"
).split()
"""Two steps of the first phase, one of the second: 4 of 12 images train."""
PLANTS_OWN = (
    "--model.heads outline --phases.0.loss.outline 0.5 --phases.1.loss.outline 0.25 --phases.0.loss.restraint 0.01 "
    "--augment.invert.p 0.5 --phases.0.schedule stairs --tracking.tracker lines --tracking.project plant"
).split()


@dataclass(frozen=True)
class Done:
    """What was run."""

    root: Path
    shards: Path
    codes: dict[str, int]

    def said(self, job: str) -> str:
        return (self.root / f"{job}.txt").read_text()

    def history(self, run: str, kind: str) -> list[dict[str, Any]]:
        """Records of a kind, but for the speed."""
        records = [json.loads(line) for line in (self.root / run / "history.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if k not in TIMED} for r in records if r["kind"] == kind]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Undisturbed training, and its evaluation; training that is stopped, and goes on; what must be refused; help."""
    root = tmp_path_factory.mktemp("plant")
    numbers = [n + n // 3 for n in range(12)]  # so that each fold has defects
    images, masks = [steel_image(n) for n in numbers], [defect_mask(n) for n in numbers]
    shards = make_shards(root / "shards", images, masks, folds=3)
    (root / "other").mkdir()
    other = root / "other" / "plant.py"
    other.write_text(PLANT.read_text() + "\n# another text\n")

    def job(name: str, program: str, *options: object, **variables: str) -> dict[str, Any]:
        known = {"STEEL_EXTENSIONS": str(PLANT)} | variables
        return {
            "program": program,
            "options": [str(option) for option in options],
            "variables": known,
            "output": str(root / f"{name}.txt"),
        }

    def fit(name: str, out: str, **variables: str) -> dict[str, Any]:
        return job(name, "train.fit", *TRAIN, *PLANTS_OWN, "--data", shards, "--out", root / out, **variables)

    checkpoint = ("--checkpoint", root / "run" / "model.safetensors")
    jobs = {
        "run": fit("run", "run"),
        "evaluation": job(
            "evaluation", "train.evaluate", *checkpoint, "--data", shards, "--out", root / "evaluation", "--workers", 0
        ),
        "stopped": fit("stopped", "stopped", PLANT_STOPS_AT="crops 0"),
        "resumed": fit("resumed", "stopped"),
        "changed": fit("changed", "run", STEEL_EXTENSIONS=str(other)),
        "info": job("info", "steel.cli", "info", root / "run" / "model.safetensors"),
        "help": job("help", "train.fit", "--help"),
    }
    list_of_jobs = root / "jobs.json"
    list_of_jobs.write_text(json.dumps(list(jobs.values())))
    variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "tests/extension/two_ranks.py", str(list_of_jobs)]
    subprocess.run(line, cwd=ROOT, env=os.environ | variables, check=True, timeout=500)
    codes = json.loads(list_of_jobs.with_suffix(".codes.json").read_text())
    return Done(root, shards, dict(zip(jobs, codes, strict=True)))


@pytest.mark.parametrize("job", ["run", "evaluation", "stopped", "resumed"])
def test_each_program_ends_well(done: Done, job: str) -> None:
    assert done.codes[job] == 0, done.said(job)


def test_its_losses_schedule_and_metric_are_in_the_history_and_in_the_curves(done: Done) -> None:
    steps, validations = done.history("run", "train"), done.history("run", "validation")
    assert len(steps) == 3
    for step in steps:
        parts = [step[f"loss_{head}"] for head in ("segmentation", "classification", "outline")]
        assert min(parts) > 0 and step["loss"] == pytest.approx(sum(parts))
    assert [step["lr"] for step in steps[:2]] == [3e-3, 3e-3 / 4]
    shares = [record["found_share"] for record in validations]
    assert len(shares) == 2 and all(0 <= share <= 1 for share in shares)
    curves = {line.get_label(): list(line.get_ydata()) for panel in draw_history(steps).axes for line in panel.lines}
    assert curves["outline"] == [step["loss_outline"] for step in steps if step["phase"] == 0]


def test_its_tracker_was_told_all_of_it(done: Done) -> None:
    lines = [json.loads(line) for line in (done.root / "run" / "plant-1.jsonl").read_text().splitlines()]
    for name, kind, space in (("loss_outline", "train", "train"), ("found_share", "validation", "val")):
        expected = [record[name] for record in done.history("run", kind)]
        assert [line[f"{space}/{name}"] for line in lines if f"{space}/{name}" in line] == expected
    assert lines[-2:] == [{"checkpoint": "model.safetensors"}, {"status": "finished"}]


def test_its_names_are_in_the_runs_files(done: Done) -> None:
    config = json.loads((done.root / "run" / "config.json").read_text())["config"]
    assert list(config["extensions"]) == ["plant"]
    assert config["model"]["heads"] == ["outline"]
    assert config["augment"]["invert"] == {"p": 0.5, "strength": 1.0}
    assert [phase["schedule"] for phase in config["phases"]] == ["stairs", "cosine"]
    assert [phase["loss"]["outline"] for phase in config["phases"]] == [0.5, 0.25]
    assert config["phases"][0]["loss"]["restraint"] == 0.01
    assert ", found 0." in (done.root / "run" / "report.txt").read_text()


def test_a_stopped_run_goes_on_to_the_very_same_weights(done: Done) -> None:
    assert "state saved, the same command goes on from here" in done.said("stopped")
    assert "resuming at phase crops" in done.said("resumed")
    for kind in ("train", "validation"):
        assert done.history("stopped", kind) == done.history("run", kind)
    ours, theirs = (load_file(done.root / out / "model.safetensors") for out in ("stopped", "run"))
    assert ours.keys() == theirs.keys() and "outline_head.conv.weight" in ours
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_its_metric_and_its_gate_are_in_the_evaluation(done: Done) -> None:
    metrics = json.loads((done.root / "evaluation" / "metrics.json").read_text())
    assert 0 <= metrics["found_share"] <= 1
    assert f", found {metrics['found_share']:.4f}" in done.said("evaluation")
    assert "class_soft" in (done.root / "evaluation" / "gates.md").read_text()


def test_help_lists_what_it_adds(done: Done) -> None:
    for name in ("loss.restraint", "loss.outline", "augment.invert.p", "stairs", "lines"):
        assert name in done.said("help"), name


def test_a_run_does_not_go_on_with_another_text_of_it(done: Done) -> None:
    assert done.codes["changed"] == 2
    assert "was started with another configuration (extensions.plant was " in done.said("changed")


def test_where_it_is_missing_the_checkpoint_is_refused_in_a_line_that_names_it(done: Done, tmp_path: Path) -> None:
    checkpoint = done.root / "run" / "model.safetensors"
    missing = "made with the extension plant, which is missing: name its file in STEEL_EXTENSIONS"
    with pytest.raises(InputError, match=missing):
        Predictor.from_checkpoint(checkpoint)
    with pytest.raises(InputError, match=missing):
        evaluate(["--checkpoint", str(checkpoint), "--data", str(done.shards), "--out", str(tmp_path / "out")])


def test_info_names_it(done: Done) -> None:
    assert re.search(r"^extensions +plant \([0-9a-f]{8}\)$", done.said("info"), re.MULTILINE)
