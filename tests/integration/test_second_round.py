"""A second round from its first step to the sentence at its end, stopped on the way; programs run in this process."""

import contextlib
import csv
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.pseudo_labels.__main__ import main as pseudo_labels
from steel.checkpoint import read_header, save_checkpoint
from steel.config import ModelConfig
from steel.errors import run_program
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.image_folder import tree_digest
from tests.numerics.quick import quicken
from tests.pseudo_labelled import DECISION, NUM_NEW, make_set, make_unlabelled
from tests.random_members import make_member
from train.__main__ import main as train
from train.presets import SMOKE
from train.second_round.__main__ import main
from train.second_round.programs import ProgramsEnded

NETWORK = ModelConfig(encoder="tu-test_resnet", decoder_channels=(8, 8), weights="none")
OPTIONS = (
    "--phases.0.epochs 0.5 --phases.1.epochs 0.5 --phases.0.lr 1e-9 --phases.1.lr 1e-9 --phases.0.batch-size 4 "
    "--phases.1.batch-size 4 --tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta "
    "--precision no --cpu"
).split()
"""The second training learns nothing: its heads stay at the frequencies of the classes, far below one half."""
LABELLING, FIRST, TRAINING, SECOND = "labelling", "first", "training", "second"


class InThisProcess:
    """In place of `Programs`."""

    received: signal.Signals | None = None

    def __init__(self, stop_at: str = "", code: int = 1) -> None:
        self.stop_at, self.code = stop_at, code
        """Which program ends with that code instead of doing anything."""
        self.started: list[str] = []

    @contextlib.contextmanager
    def handing_on(self) -> Iterator["InThisProcess"]:
        yield self

    def run(self, module: str, words: Sequence[str], *, fine: Collection[int] = (0,)) -> None:
        mains: dict[str, Callable[[Sequence[str]], int]] = {"data_prep.pseudo_labels": pseudo_labels, "train": train}
        is_evaluation = words[0] == "evaluate"
        name = Path(words[-2]).name if is_evaluation else LABELLING if module != "train" else TRAINING
        self.started.append(name)
        if "accelerate.state" in sys.modules:
            sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
        code = self.code if name == self.stop_at else run_program(lambda: mains[module](list(words)))
        if code not in fine:
            raise ProgramsEnded(code)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, images without labels of which one cannot be read, and a first checkpoint, of random weights."""
    folder = tmp_path_factory.mktemp("round")
    shards = make_set(folder)
    make_unlabelled(folder / "line")
    config = replace(SMOKE, model=NETWORK).recipe()
    told = {"data_digest": Manifest.load(str(shards)).digest, "config": config}
    folds = {"train": [2], "tuning": [0], "test": [1]}
    save_checkpoint(folder / "first.safetensors", make_member(1, decision=DECISION, folds=folds, provenance=told))
    return folder


def run(work: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *words: str, **stop: Any) -> tuple[int, list[str]]:
    """The exit code, and which programs were started."""
    programs = InThisProcess(**stop)
    quicken(monkeypatch)
    torch.set_num_threads(1)
    monkeypatch.setattr("train.second_round.__main__.Programs", lambda: programs)
    line = ["--checkpoint", work / "first.safetensors", "--data", work / "shards", "--unlabelled", work / "line"]
    return run_program(lambda: main([*map(str, line), "--out", str(out), *OPTIONS, *words])), programs.started


def scores_of(folder: Path) -> dict[str, float]:
    """From per_image.csv, by code of this test's own: pairs of image and class, then pixels of classes."""
    with (folder / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs, positives, ious = [], [], []
    for name in ("class 1", "class 2"):
        right, said, true = (
            np.array([int(row[f"{what} pixels {name}"]) for row in rows]) for what in ("right", "predicted", "true")
        )
        dice = [2 * r / (s + t) if s + t else 1.0 for r, s, t in zip(right, said, true, strict=True)]
        pairs += dice
        positives += [one for one, t in zip(dice, true, strict=True) if t]
        ious.append(right.sum() / (said + true - right).sum())
    return {"mean Dice": np.mean(pairs), "positive Dice": np.mean(positives), "mean IoU": np.mean(ious)}


def test_from_images_without_labels_to_which_checkpoint_to_ship(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "second"
    assert run(work, out, monkeypatch, stop_at=LABELLING, code=130) == (130, [LABELLING])
    assert not out.exists()
    assert run(work, out, monkeypatch, stop_at=FIRST, code=1) == (1, [LABELLING, FIRST])
    assert "left out 1 unreadable image: cut.png" in capsys.readouterr().err
    # A training that was stopped ends with 0, and has not said that it is finished.
    assert run(work, out, monkeypatch, stop_at=TRAINING, code=0) == (0, [LABELLING, FIRST, TRAINING])
    assert capsys.readouterr().err.splitlines()[-1].startswith("the round is interrupted; the same command goes on")
    assert run(work, out, monkeypatch, stop_at=SECOND, code=5) == (5, [LABELLING, TRAINING, SECOND])
    assert not (out / "report.txt").exists()
    assert run(work, out, monkeypatch) == (3, [LABELLING, TRAINING, SECOND])

    header = read_header(out / "run" / "model.safetensors")
    assert header["folds"] == {"train": [2, 3], "tuning": [0], "test": [1]}
    recipe = header["provenance"]["config"]
    assert (recipe["preset"], recipe["model"]["encoder"], recipe["model"]["decoder_channels"]) == (
        "smoke", "tu-test_resnet", [8, 8])  # fmt: skip
    assert json.loads((out / "run" / "status.json").read_text())["attempt"] == 1  # it was not trained twice

    metrics = {name: json.loads((out / "test" / name / "metrics.json").read_text()) for name in ("first", "second")}
    comparison = json.loads((out / "compare.json").read_text())
    (pair,), report = comparison["pairs"], (out / "report.txt").read_text()
    assert [source["name"] for source in comparison["sources"]] == ["first", "second"]
    assert pair["images"] == metrics["first"]["images"] == metrics["second"]["images"] == 4
    assert metrics["first"]["role"] == metrics["second"]["role"] == "test"
    names = {"mean Dice": "mean_dice", "positive Dice": "mean_dice_positive", "mean IoU": "miou"}
    counted = {name: scores_of(out / "test" / name) for name in metrics}
    outcomes = set()
    for name, key in names.items():
        found = pair["differences"][name]
        for side, one in metrics.items():
            assert found[side] == pytest.approx(one[key], abs=1e-6) == pytest.approx(counted[side][name], abs=1e-6)
        gain = metrics["second"][key] - metrics["first"][key]
        assert found["difference"] == pytest.approx(gain, abs=1e-6) and abs(gain) > 0.01
        line = f"{name}  {metrics['first'][key]:.4f}  {metrics['second'][key]:.4f}  {gain:+.4f}  too few to tell"
        assert line in re.sub("  +", "  ", report).splitlines()
        outcomes.add(found["so"])
    assert outcomes == {"too few to tell"}  # of four images
    assert report.splitlines()[-1] == (
        f"no gain is shown: ship {work}/first.safetensors, though {metrics['first']['verdict']['warning']}"
    )
    assert report in capsys.readouterr().err

    before = tree_digest(out)
    assert run(work, out, monkeypatch) == (3, [LABELLING, TRAINING])  # which say that they are finished
    told = capsys.readouterr()
    assert "already finished, nothing to do" in told.out and "run is finished: see " in told.err and report in told.err
    assert tree_digest(out) == before

    assert run(work, out, monkeypatch, "--unsure", "0.2") == (2, [LABELLING])
    assert "already holds shards made with other options: unsure 0.2 0.8, not 0.4 0.6" in capsys.readouterr().err
    assert run(work, out, monkeypatch, "--seed", "1") == (2, [LABELLING])
    told = f"--out {out}: its run folder {out}/run: was started with another configuration (seed was 0, now 1)"
    assert told in capsys.readouterr().err
    assert run(work, out, monkeypatch, "--unlabelled", str(work / "images")) == (2, [])
    assert tree_digest(out) == before
    assert Manifest.load(str(out / "shards")).options["pseudo_labels"][0]["images"] == NUM_NEW


def test_an_evaluation_that_was_cut_short_or_removed_is_made_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked otherwise, which labels and trains as before, it was begun anew and killed; then files are removed."""
    out, finished = tmp_path / "second", [LABELLING, TRAINING]
    assert run(work, out, monkeypatch) == (3, [LABELLING, FIRST, TRAINING, SECOND])
    report = (out / "report.txt").read_bytes()
    other = ("--pixels-per-pass", "100000")
    assert run(work, out, monkeypatch, *other, stop_at=FIRST, code=137) == (137, [LABELLING, FIRST])
    assert list(json.loads((out / "round.json").read_text())["judged"]) == ["second"]
    assert run(work, out, monkeypatch) == (3, [LABELLING, FIRST, TRAINING])
    (out / "test" / "second" / "per_image.csv").unlink()
    assert run(work, out, monkeypatch) == (3, [*finished, SECOND])
    shutil.rmtree(out / "test" / "first")
    assert run(work, out, monkeypatch) == (3, [LABELLING, FIRST, TRAINING])
    assert run(work, out, monkeypatch) == (3, finished)
    assert (out / "report.txt").read_bytes() == report


def test_a_run_folder_that_cannot_be_taken_is_told_by_the_option_that_was_given(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And before an evaluation, not after."""
    out = tmp_path / "second"
    (out / "run").mkdir(parents=True)
    (out / "run" / "notes.txt").touch()
    assert run(work, out, monkeypatch) == (2, [LABELLING])
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --out {out}: its run folder {out}/run: not empty and not a run folder (it holds notes.txt); choose "
        "another folder"
    )


def test_images_of_coils_that_judge_take_no_part(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folds are those of the second training, whatever the first was trained on."""
    shards = ShardReader(str(work / "shards"))
    of_fold = {fold: shards.index.image_id(int(shards.index.rows([fold])[0])) for fold in range(3)}
    coils = tmp_path / "coils.csv"
    rows = [f"{image_id},{fold}" for fold, image_id in of_fold.items()]
    coils.write_text("\n".join(["image,group", *rows, *(f"line/{fold}.png,{fold}" for fold in range(3))]) + "\n")
    out = tmp_path / "second"
    assert run(work, out, monkeypatch, "--groups", str(coils)) == (3, [LABELLING, FIRST, TRAINING, SECOND])
    (said,) = Manifest.load(str(out / "shards")).options["pseudo_labels"]
    assert (said["held_out_folds"], said["held_out"]) == ([0, 1], 3)  # line/0.png, its mirror image and line/1.png
    reader = ShardReader(str(out / "shards"))
    taken = {reader.index.image_id(int(row)) for row in reader.index.rows([3])}
    assert taken == {f"fold-3/line/{number}.png" for number in (2, 3, 4)}
    assert run(work, out, monkeypatch) == (2, [LABELLING])
