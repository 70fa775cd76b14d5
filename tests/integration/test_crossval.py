"""A cross-validation in pieces, as a job array runs it: members one by one, then what is missing and the join."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steel.checkpoint import load_checkpoint, save_checkpoint
from steel.errors import InputError, SharedError, run_program
from steel.shards.format import Manifest
from tests.image_folder import tree_digest
from tests.numerics.quick import quicken
from tests.random_members import make_member
from tests.shard_folder import damage_image, defect_mask, make_shards, steel_image
from train import fitting
from train.crossval import main
from train.recipe_facts import MachineClass

OPTIONS = (
    "--preset smoke --phases.0.epochs 0.1 --phases.1.epochs 0.1 --phases.0.lr 1e-9 --phases.1.lr 1e-9 "
    "--phases.0.batch-size 2 --phases.1.batch-size 2 --optim.ema-decay 0 --tracking.tracker none --runtime.workers 0 "
    "--runtime.precision no --validation.tta --validation.every-epochs 100 --model.encoder tu-test_resnet "
    "--model.decoder-channels 8 8"
).split()
"""Members that learn nothing: their heads stay at the frequencies of the classes, far below one half."""
MASKS = [defect_mask(n // 3, 32, 64, 2) for n in range(18)]
"""Image n is of fold n % 3."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [steel_image(n, 32, 64) for n in range(18)]
    return make_shards(tmp_path_factory.mktemp("shards") / "shards", images, MASKS, num_classes=2, folds=3)


@pytest.fixture
def quick(fresh_accelerate: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)


def attempt_of(folder: Path) -> int:
    return json.loads((folder / "status.json").read_text())["attempt"]


@pytest.mark.usefixtures("quick")
def test_members_one_by_one_and_joined(shards: Path, tmp_path: Path) -> None:
    line = [*OPTIONS, "--data", str(shards), "--out", str(tmp_path)]
    with pytest.raises(SharedError, match=r"--fold 3: not a fold to train a member for; there are 0, 1, 2"):
        main([*line, "--fold", "3"])
    assert main([*line, "--fold", "2"]) == 0
    assert not (tmp_path / "fold-0").exists() and not (tmp_path / "model.safetensors").exists()
    with pytest.raises(InputError, match=r"the member of fold 0 is not finished; run it again with --fold 0"):
        main([*line, "--join"])
    assert main(line) == 0
    assert [attempt_of(tmp_path / f"fold-{fold}") for fold in range(3)] == [1, 1, 1]  # none was trained twice

    for fold in range(3):  # each has judged its own fold alone, and has seen none of it
        with np.load(tmp_path / f"fold-{fold}" / "validation_statistics.npz") as statistics:
            assert statistics["rows"].tolist() == list(range(fold, 18, 3))
        member = load_checkpoint(tmp_path / f"fold-{fold}" / "model.safetensors")
        assert member.folds == {"train": [f for f in range(3) if f != fold], "tuning": [fold], "test": []}

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    clean_pairs = sum(not (mask >> k & 1).any() for mask in MASKS for k in range(2))
    assert metrics["images"] == 18 and metrics["role"] == "test"
    assert metrics["mean_dice"] == pytest.approx(clean_pairs / 36)  # nothing is answered: 1 where there is nothing

    comparison = json.loads((tmp_path / "compare.json").read_text())
    assert [source["name"] for source in comparison["sources"]] == ["fold-0", "fold-1", "fold-2"]
    of_folds = [json.loads((tmp_path / f"fold-{k}" / "validation.json").read_text())["mean_dice"] for k in range(3)]
    assert [source["mean_dice"] for source in comparison["sources"]] == of_folds
    assert comparison["spread"]["mean_dice"]["mean"] == pytest.approx(np.mean(of_folds))
    assert "fold-2" in (tmp_path / "compare.html").read_text()
    page = (tmp_path / "report.html").read_text()
    assert 'data-from="/per_fold/2/mean_dice"' in page and 'data-from="/provenance/members">3<' in page
    assert f'data-from="/provenance/checkpoint">{tmp_path}/model.safetensors<' in page
    lines = (tmp_path / "per_image.csv").read_text().splitlines()
    assert len(lines) == 1 + 18

    overlays = {row["image_id"]: row["overlay"] for row in csv.DictReader(lines)}
    for row in (n for n, mask in enumerate(MASKS) if mask.any()):  # nothing is answered: each is missed, and is shown
        assert f'id="image-{row}"' in page
        assert (tmp_path / overlays[f"images/{row:04d}.png"]).is_file()
    assert (tmp_path / "label_doubts.csv").read_text().startswith("rank,image_id")

    joined = load_checkpoint(tmp_path / "model.safetensors")
    assert joined.members == 3 and joined.decision is not None
    assert joined.folds == {"train": [0, 1, 2], "tuning": [0, 1, 2], "test": []}
    for fold in range(3):
        member = load_checkpoint(tmp_path / f"fold-{fold}" / "model.safetensors")
        assert all(tensor.equal(member.tensors[name][0]) for name, tensor in joined.member_state(fold).items())
    of_members = [np.load(tmp_path / f"fold-{k}" / "validation_statistics.npz")["label_probs"] for k in range(3)]
    means = np.concatenate(of_members).mean(axis=0) / 255  # each image by the member that has not seen it
    validation = joined.provenance["validation"]
    assert (validation["images"], validation["defective_share"]) == (18, 0)
    assert validation["mean_probabilities"] == pytest.approx(means, abs=1e-6)
    report = (tmp_path / "report.txt").read_text()
    assert "3 members; out-of-fold scores, each fold judged by thresholds found on the others:" in report
    assert "folds 0, 1, 2 (each fold chose the weights of the member that it judges: these scores flatter" in report
    assert "the shipped decision, found on all folds:" in report


AUTO = (
    "--model.encoder tu-test_resnet --model.decoder-channels 8 8 --model.weights none --tracking.tracker none "
    "--runtime.workers 0"
).split()


def config_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The configuration of a run, and what `--budget` said."""
    values = json.loads((folder / "config.json").read_text())
    return values["config"], values["budget"]


@pytest.mark.usefixtures("quick")
def test_members_to_come_have_the_recipe_of_those_that_are_there(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made on another machine, of another length; else the members would be of several recipes, or be refused."""
    line = [*AUTO, "--data", str(shards), "--out", str(tmp_path)]
    monkeypatch.setattr(fitting, "find_machine_class", lambda: MachineClass("cpu", 80))
    assert main([*line, "--budget", "0.5passes", "--fold", "1"]) == 0
    monkeypatch.setattr(fitting, "find_machine_class", lambda: MachineClass("gpu", 4))
    before = tree_digest(tmp_path)
    recipe_of_smoke = ["--preset", "smoke", "--resume", "never"]
    other = {
        "is finished, with --budget 0.5passes; choose another --out for a run with --budget 0.7passes": [
            "--budget",
            "0.7passes",
        ],
        r"was started with another configuration \(phases.0.lr was 0.002, now 1e-05\)": ["--phases.0.lr", "1e-5"],
        r"was started with another configuration \(.* model.dropout was 0.2, now 0.1": recipe_of_smoke,
    }
    for told, words in other.items():
        for fold in ([], ["--fold", "0"]):  # before any is trained, and whether it is that member's turn or another's
            with pytest.raises(InputError, match=f"--out {tmp_path}/fold-1: {told}"):
                main([*line, *words, *fold])
    assert tree_digest(tmp_path) == before
    (tmp_path / "fold-0-old").mkdir()
    shutil.copy(tmp_path / "fold-1" / "config.json", tmp_path / "fold-0-old" / "config.json")
    shutil.rmtree(tmp_path / "fold-1" / "states")  # to save room; what has ended is there all the same
    assert main(line) == 0
    assert [attempt_of(tmp_path / f"fold-{fold}") for fold in range(3)] == [1, 1, 1]
    recipes = []
    for fold in range(3):
        recipe, budget = config_of(tmp_path / f"fold-{fold}")
        assert (recipe.pop("folds")["validation"], budget) == ([fold], "0.5passes")
        recipes.append(recipe)
    assert recipes[0] == recipes[1] == recipes[2]
    assert recipes[0]["reasons"]["machine"].startswith("a CPU with 80 GB")
    assert main([*line, "--budget", "0.5passes"]) == 0  # as it was begun


@pytest.mark.usefixtures("quick")
def test_a_join_takes_the_views_and_the_test_folds_of_the_members(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their predictions are there: thresholds found on these go with no other views."""
    start = [*(word for word in OPTIONS if word != "--validation.tta"), "--data", str(shards), "--out", str(tmp_path)]
    line = [*start, "--folds.test", "0", "--validation.tta", "vflip"]
    for fold in ("1", "2"):
        assert main([*line, "--fold", fold]) == 0
    with pytest.raises(InputError, match=r"--folds\.validation: in a cross-validation each fold that does not test"):
        main([*line, "--folds.validation=1"])
    with pytest.raises(InputError, match=r"--fold 0: not a fold to train a member for; there are 1, 2"):
        main([*start, "--folds.test=0", "--fold", "0"])
    with pytest.raises(InputError, match=r"--fold 1 and --join: one trains a member, the other joins all"):
        main([*start, "--fold", "1", "--join"])
    with pytest.raises(InputError, match=r"--folds\.test: test folds: fold 7 is not in the shards"):
        main([*start, "--folds.test", "7", "--fold", "1"])
    with pytest.raises(InputError, match=r"--folds.test 2: the members in .* have kept 0 for the test; leave it out"):
        main([*start, "--folds.test", "2", "--join"])
    join = ["--preset", "smoke", "--runtime.precision", "no", "--data", str(shards), "--out", str(tmp_path), "--join"]
    assert main(join) == 0
    joined = load_checkpoint(tmp_path / "model.safetensors")
    assert joined.decision is not None and joined.decision.tta == ("vflip",)
    assert joined.folds == {"train": [1, 2], "tuning": [1, 2], "test": [0]}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.crossval.write_crossval", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(join)  # once more: no scores of the first join stand beside the checkpoint of the second
    files = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"fold-1", "fold-2", "model.safetensors"}

    config = json.loads((tmp_path / "fold-2" / "config.json").read_text())
    config["config"]["validation"]["tta"] = ["hflip"]
    (tmp_path / "fold-2" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the members of folds 1 and 2 differ in --validation\.tta, so that"):
        main([*line, "--join"])


@pytest.mark.usefixtures("quick")
def test_a_join_is_refused_on_other_shards_than_the_members_were_trained_on(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same images in the same folds, with a label corrected: the counts that the members left are of the old."""
    masks = [np.zeros_like(mask) if n == 4 else mask for n, mask in enumerate(MASKS)]
    images = [steel_image(n, 32, 64) for n in range(18)]
    corrected = make_shards(tmp_path / "corrected", images, masks, num_classes=2, folds=3)
    out = tmp_path / "out"
    line = [*OPTIONS, "--out", str(out), "--folds.test", "0", "--data"]
    for fold in ("1", "2"):
        assert main([*line, str(shards), "--fold", fold]) == 0
    before = tree_digest(out)
    capsys.readouterr()
    assert run_program(lambda: main([*line, str(corrected), "--join"])) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --out {out}/fold-1: was started on another data set, or the shards have changed; give the shards that "
        "it was started on, or choose another folder"
    )
    assert tree_digest(out) == before
    assert main([*line, str(shards), "--join"]) == 0


@pytest.mark.usefixtures("quick")
def test_a_report_says_where_a_members_start_was_trained_on_the_fold_that_it_judges(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the member of fold 1 alone: it has started from a checkpoint that was trained on folds 0 and 1."""
    told = {"data_digest": Manifest.load(str(shards)).digest}
    start, out = tmp_path / "start.safetensors", tmp_path / "out"
    save_checkpoint(start, make_member(1, folds={"train": [0, 1], "tuning": [2]}, provenance=told))
    line = [*OPTIONS, "--data", str(shards), "--out", str(out), "--folds.test", "0"]
    assert main([*line, "--init-from", str(start), "--fold", "1"]) == 0
    assert main([*line, "--init-from", str(start), "--fold", "2"]) == 0
    capsys.readouterr()
    assert main([*line, "--join"]) == 0
    warning = "WARNING: what the members that judge fold 1 learned from was trained on these images: the scores flatter"
    assert warning in capsys.readouterr().err.splitlines()
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["role"], metrics["verdict"]["basis"]) == ("train", "cross-fitted, but trained on")
    assert "was TRAINED ON folds that they judge: these scores flatter)" in (out / "report.txt").read_text()


@pytest.mark.usefixtures("quick")
def test_a_damaged_sample_is_skipped_by_members_and_join(shards: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shards, tmp_path / "shards")
    damage_image(data, 0)
    out = tmp_path / "out"
    line = [*OPTIONS, "--data", str(data), "--out", str(out), "--runtime.max-bad-samples", "99"]
    with pytest.raises(InputError):
        main(line)
    shutil.rmtree(out)
    assert main([*line, "--runtime.on-bad-sample", "skip"]) == 0
    assert len((out / "per_image.csv").read_text().splitlines()) == 1 + 17
    with pytest.raises(InputError, match=r"lacks 1 image of fold 0, which could not be read; --runtime\.on-bad-"):
        main([*line, "--join"])


def test_a_stray_word_is_named(shards: Path, tmp_path: Path) -> None:
    line = [*OPTIONS, "--data", str(shards), "--out", str(tmp_path)]
    for words in (["foo", *line], [*line[:2], "foo", *line[2:]]):
        with pytest.raises(SharedError, match=r"^foo: belongs to no option"):
            main(words)


def test_a_trainings_folder_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "status.json").touch()
    line = [*OPTIONS, "--data", str(shards), "--out", str(tmp_path)]
    with pytest.raises(InputError, match=rf"--out {tmp_path}: holds a training, whose model would be replaced; choose"):
        main(line)


@pytest.mark.usefixtures("quick")
def test_members_that_were_begun_side_by_side_go_on_with_their_own_recipes(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tasks of an array on several machines: none knew of the others when it made its own."""
    line = [*AUTO, "--data", str(shards), "--budget", "0.5passes", "--out"]
    for fold, memory in ((0, 80), (1, 4)):
        monkeypatch.setattr(fitting, "find_machine_class", lambda memory=memory: MachineClass("cpu", memory))
        assert main([*line, str(tmp_path / str(fold)), "--fold", str(fold)]) == 0
    (tmp_path / "1" / "fold-1").rename(tmp_path / "0" / "fold-1")
    for fold in (0, 1):
        assert main([*line, str(tmp_path / "0"), "--fold", str(fold)]) == 0
    told = [config_of(tmp_path / "0" / f"fold-{fold}")[0]["reasons"]["machine"] for fold in (0, 1)]
    assert told[0] != told[1]
