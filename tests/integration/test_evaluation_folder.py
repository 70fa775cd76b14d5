"""What an evaluation writes into a folder that holds something already."""

import contextlib
import csv
import functools
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from steel.checkpoint import save_checkpoint
from steel.errors import InputError, run_program
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.shards.selection import check_stored_sizes
from tests.numerics.quick import COARSE
from tests.random_members import make_member
from tests.shard_folder import make_shards
from train.evaluate import main as evaluate
from train.evaluate import tune_thresholds

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of two folds, and a checkpoint that knows the gates it was tuned with."""
    torch.set_num_threads(1)
    monkeypatch.setattr("train.evaluate.tune_thresholds", functools.partial(tune_thresholds, space=COARSE))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 64), np.uint8) for _ in range(12)]
    masks = [((rng.random((32, 64)) < 0.5) * (n % 4)).astype(np.uint8) for n in range(12)]
    make_shards(tmp_path / "shards", images, masks, num_classes=2, folds=2)
    folds = {"train": [9], "tuning": [0], "test": [1]}
    save_checkpoint(tmp_path / "first.safetensors", make_member(0, folds=folds))
    return tmp_path


def code_of(work: Path, out: Path, *options: str, checkpoint: str = "first.safetensors") -> int:
    line = ["--checkpoint", str(work / checkpoint), "--data", str(work / "shards"), "--out", str(out)]
    return run_program(lambda: evaluate([*line, "--workers", "0", "--precision", "no", *options]))


TUNED = ("--folds", "0", "--tune-thresholds", "--gates", "none")


def test_a_run_folder_and_a_checkpoint_of_something_else_are_not_written_over(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folds, shipped = work / "run", work / "folds", work / "shipped"
    for folder in (run, folds / "fold-0", shipped):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes((work / "first.safetensors").read_bytes())
    for name in ("config.json", "status.json"):
        (run / name).write_text("{}")
        (folds / "fold-0" / name).write_text("{}")
    (folds / "report.html").write_text("out of fold")
    before = {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}
    for out, options, message in (
        (run, TUNED, f"error: --out {run}: a training's run folder; give a folder of its own, such as {run}/test"),
        (run, ("--folds", "1"), f"error: --out {run}: a training's run folder"),
        (folds, ("--folds", "1"), f"error: --out {folds}: a cross-validation's run folder; give a folder of its own"),
        (shipped, TUNED, f"error: {shipped}/model.safetensors: not of a --tune-thresholds, and would be replaced; "),
    ):
        assert code_of(work, out, *options) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert line.startswith(message)
    assert {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()} == before
    for _ in range(2):  # the second one replaces what the first has written
        assert code_of(work, run / "tuned", *TUNED) == 0


def test_intervals_are_of_groups_of_images(work: Path) -> None:
    """By this test's own reckoning from the table of images: of six groups three are drawn, in ways that are alike
    likely, as Student's t says how little six tell: 5 (1.960 / 2.571) ** 2 is 2.9."""
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (32, 64), np.uint8) for _ in range(18)]
    masks = [((rng.random((32, 64)) < 0.5) * (n // 2 % 4)).astype(np.uint8) for n in range(18)]
    shutil.rmtree(work / "shards")
    of_fold = [1, 1, 1, 2, 2, 3, 4, 5, 6]  # and what is not judged is of one group
    groups = [0 if n % 2 == 0 else of_fold[n // 2] for n in range(18)]
    make_shards(work / "shards", images, masks, num_classes=2, folds=2, groups=groups)
    out = work / "groups"
    assert code_of(work, out, "--folds", "1") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    with (out / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    members: dict[str, list[float]] = {}
    for row in rows:
        members.setdefault(row["group"], []).append((float(row["dice class 1"]) + float(row["dice class 2"])) / 2)
    assert {group: len(of) for group, of in members.items()} == {"1": 3, "2": 2, **dict.fromkeys("3456", 1)}
    draws = itertools.product(members.values(), repeat=3)
    means = sorted(float(np.mean([*itertools.chain(*drawn)])) for drawn in draws)
    low, high = metrics["intervals"]["mean_dice"]
    spans = [np.percentile(means, [2.5 + slack, 97.5 - slack]) for slack in (-1, 1)]  # of a thousand draws
    assert spans[0][0] <= low <= spans[1][0] < spans[1][1] <= high <= spans[0][1]
    assert "on 9 images in 6 groups (other shards than its own)" in metrics["verdict"]["sentence"]


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_nothing_of_an_earlier_evaluation_stands_under_the_report_of_a_later_one(work: Path) -> None:
    used, fresh = work / "used", work / "fresh"
    assert code_of(work, used, *TUNED) == 0
    first = names_in(used)
    (used / "model.safetensors").rename(work / "kept.safetensors")
    (used / "overlays" / "mine.jpg").write_text("foreign")
    (used / "notes.txt").write_text("foreign")
    for out in (used, fresh):
        assert code_of(work, out, "--folds", "1") == 0
    assert "gates.md" in first - names_in(fresh)
    assert any(name.startswith("overlays/") for name in first - names_in(fresh))
    assert names_in(used) == names_in(fresh) | {"overlays/mine.jpg", "notes.txt"}
    for name in ("per_image.csv", "label_doubts.csv"):
        assert (used / name).read_bytes() == (fresh / name).read_bytes()


def test_an_interrupted_evaluation_leaves_no_scores_beside_an_earlier_checkpoint(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, tuned = work / "tuned", work / "tuned" / "model.safetensors"
    assert code_of(work, out, *TUNED) == 0
    before = tuned.read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.evaluate.write_evaluation", interrupted)
    save_checkpoint(work / "other.safetensors", make_member(1, folds={"train": [9], "tuning": [0], "test": [1]}))
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        code_of(work, out, *TUNED, checkpoint="other.safetensors")
    assert tuned.read_bytes() != before and names_in(out) == {"model.safetensors"}


def test_a_tuned_checkpoint_stays_and_beside_its_own_scores_alone(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(work, work / "tuned", *TUNED) == 0
    tuned = (work / "tuned" / "model.safetensors").read_bytes()
    before = names_in(work)
    assert code_of(work, work / "tuned", "--folds", "1") == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(f"error: {work}/tuned/model.safetensors: of an earlier --tune-thresholds, and would stand beside ")
    )
    assert names_in(work) == before
    assert code_of(work, work / "tuned", "--folds", "1", checkpoint="tuned/model.safetensors") == 0
    assert (work / "tuned" / "model.safetensors").read_bytes() == tuned

    capsys.readouterr()
    assert code_of(work, work / "seen", "--folds", "0", checkpoint="tuned/model.safetensors") == 0
    assert "WARNING: the checkpoint has seen fold 0 (tuning): these scores flatter it" in capsys.readouterr().err


def test_held_out_is_said_of_the_shards_alone_that_it_was_trained_on(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = Manifest.load(str(work / "shards")).digest
    start = {"source": "start", "seen": [{"digest": "gone", "train": [0], "tuning": []}]}
    words = "other shards than its own"
    for name, provenance, role, basis, told in (
        ("same", {"data_digest": digest}, "test", "held out", ""),
        (
            "heir",
            {"data_digest": digest, "learned_from": [start]},
            "test",
            "held out",
            "learned from other shards, too",
        ),
        ("other", {"data_digest": "gone"}, "unknown", words, "was not trained on these shards, as far as it says: "),
    ):
        folds = {"train": [0], "test": [1]}
        save_checkpoint(work / f"{name}.safetensors", make_member(0, folds=folds, provenance=provenance))
        capsys.readouterr()
        assert code_of(work, work / name, "--folds", "1", checkpoint=f"{name}.safetensors") == 0
        shown = capsys.readouterr().err
        metrics = json.loads((work / name / "metrics.json").read_text())
        assert (metrics["role"], metrics["verdict"]["basis"]) == (role, basis)
        assert f"folds 1 ({basis}" in shown and f"({basis}" in (work / name / "report.html").read_text()
        lines = [line for line in shown.splitlines() if "the checkpoint " in line]
        assert len(lines) == bool(told) and told in "".join(lines)


def test_a_folder_of_something_else_is_refused_and_an_interrupted_evaluation_repeated(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, out = work / "foreign", work / "own"
    for name in ("images/a.png", "predictions/overlays/a.jpg", "other/metrics.json", "other/report.html"):
        (foreign / name).parent.mkdir(parents=True, exist_ok=True)
        (foreign / name).write_text("{}")
    for folder, held in (("images", "a.png"), ("predictions", "overlays"), ("other", "metrics.json, report.html")):
        capsys.readouterr()
        assert code_of(work, foreign / folder, "--folds", "1") == 2
        line = capsys.readouterr().err.splitlines()[-1]
        told = f"not empty and not of an evaluation (it holds {held}); choose another folder"
        assert line == f"error: --out {foreign / folder}: {told}"
    assert names_in(foreign) == {
        "images/a.png",
        "predictions/overlays/a.jpg",
        "other/metrics.json",
        "other/report.html",
    }
    out.mkdir()
    (out / ".hidden").touch()
    assert code_of(work, out, *TUNED) == 0

    def interrupted(*_: object) -> None:
        raise InputError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr("steel.reports.evaluation_report.write_metrics", interrupted)
        assert code_of(work, out, *TUNED) == 2
    left = {name.partition("/")[0] for name in names_in(out)}
    assert left == {".hidden", "model.safetensors", "overlays"}
    assert code_of(work, out, *TUNED) == 0


def test_images_of_another_size_than_prediction_gives_the_network_are_refused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`steel predict` resizes them; what the network says of these nobody would get."""
    save_checkpoint(work / "small.safetensors", make_member(0, folds={"train": [9]}, input_size=(16, 32)))
    assert code_of(work, work / "out", "--folds", "1", checkpoint="small.safetensors") == 2
    assert capsys.readouterr().err == (
        f"error: --checkpoint {work}/small.safetensors: it takes images resized to 16x32, the shards hold 6 images of "
        "another one, as images/0001.png at 32x64; make shards with --resize 16x32\n"
    )
    assert not (work / "out").exists()
    save_checkpoint(work / "same.safetensors", make_member(0, folds={"train": [9]}, input_size=(32, 64)))
    assert code_of(work, work / "out", "--folds", "1", checkpoint="same.safetensors") == 0


def test_reduced_images_are_refused_for_a_network_that_takes_them_whole(tmp_path: Path) -> None:
    originals = [np.zeros((64, 128), np.uint8) for _ in range(2)]
    images = [np.zeros((32, 64), np.uint8) for _ in range(2)]
    reader = ShardReader(make_shards(tmp_path / "shards", images, originals, num_classes=2, folds=2))
    with pytest.raises(InputError, match=r"it takes images at their own size, the shards hold 1 image of another"):
        check_stored_sizes("x", None, reader, np.array([1]))
    check_stored_sizes("x", (32, 64), reader, np.array([0, 1]))
