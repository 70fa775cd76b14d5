"""Images without labels become a further fold of a set: what goes in, what stays out, and that programs take it."""

import errno
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from data_prep.pseudo_labels.__main__ import main as program
from data_prep.pseudo_labels.labelling import Labelling
from data_prep.verify import main as verify
from steel.checkpoint import Checkpoint, save_checkpoint, stack_members
from steel.cli import main as steel
from steel.errors import InputError, run_program
from steel.images.pixel_format import Depth
from steel.inference.predictor import Predictor
from steel.inference.pseudo_label import UnsureBand, pseudo_label
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.image_folder import tree_digest
from tests.numerics.quick import quicken
from tests.pseudo_labelled import DECISION, NUM_LABELLED, NUM_NEW, SIZE, make_set, make_unlabelled, picture
from tests.random_members import make_member
from train.crossval import main as crossval
from train.evaluate import main as evaluate
from train.fit import main as fit

OPTIONS = (
    "--preset smoke --phases.0.epochs 0.5 --phases.1.epochs 0.5 --phases.0.batch-size 4 --phases.1.batch-size 4 "
    "--tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta --model.weights none "
    "--model.encoder tu-test_resnet --model.decoder-channels 8 8"
).split()


def save(path: Path, *members: Checkpoint) -> str:
    save_checkpoint(path, members[0])
    return str(path)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, images without labels, a checkpoint, and what the program makes of them in `more`; all is only read."""
    folder = tmp_path_factory.mktemp("pseudo")
    make_set(folder / "set")
    make_unlabelled(folder / "unlabelled")
    save(folder / "model.safetensors", make_member(1, decision=DECISION))
    return folder


def line(work: Path, place: Path, **changes: object) -> list[str]:
    given = {
        "checkpoint": work / "model.safetensors",
        "data": work / "set" / "shards",
        "unlabelled": work / "unlabelled",
        "out": place,
        "precision": "no",
        **changes,
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def run(*words: str) -> int:
    return run_program(lambda: program(words))


@pytest.fixture(scope="module")
def more(work: Path) -> Path:
    assert run(*line(work, work / "more")) == 3
    return work / "more"


def test_the_set_is_kept_and_the_new_images_are_a_fold_of_their_own(work: Path, more: Path) -> None:
    before, after = ShardReader(str(work / "set" / "shards")), ShardReader(str(more))
    assert len(after) == len(before) + NUM_NEW
    for row in range(len(before)):
        assert after.index.image_id(row) == before.index.image_id(row)
        assert after.read_bytes(row) == before.read_bytes(row)
        assert after.index.fold[row] == before.index.fold[row]
        assert after.index.group[row] == before.index.group[row]
    new = range(len(before), len(after))
    assert {int(after.index.fold[row]) for row in new} == {3}
    names = {after.index.image_id(row): int(after.index.group[row]) for row in new}
    assert names.keys() == {"fold-3/again.png", *(f"fold-3/line/{n}.png" for n in range(NUM_NEW - 1))}
    assert names["fold-3/again.png"] == names["fold-3/line/0.png"]
    assert len(set(names.values())) == NUM_NEW - 1 and min(names.values()) == before.manifest.num_groups
    for tar in (work / "set" / "shards").glob("*.tar"):
        assert (more / tar.name).stat().st_ino == tar.stat().st_ino  # takes no room
    assert verify([str(more), "--workers", "1"]) == 0


def test_masks_are_those_that_the_checkpoint_decides_where_it_is_sure(work: Path, more: Path) -> None:
    reader = ShardReader(str(more))
    predictor = Predictor.from_checkpoint(work / "model.safetensors", device="cpu", precision="no")
    ignored = 0
    for row in reader.index.rows([3]):
        sample = reader.read(int(row))
        name = reader.index.image_id(int(row)).removeprefix("fold-3/")
        (prediction,) = predictor.predict(str(work / "unlabelled" / name))
        label = pseudo_label(DECISION, prediction.mask_probs, prediction.label_probs, UnsureBand())
        assert label is not None
        expected = label.masks[0] + 2 * label.masks[1] + 128 * label.ignored
        np.testing.assert_array_equal(sample.bitmask, expected)
        np.testing.assert_array_equal(sample.image, prediction.image)
        ignored += int(label.ignored.sum())
        assert reader.index.ignored[row] == label.ignored.sum()
    assert ignored > 0 and reader.index.areas[reader.index.rows([3])].sum() > 0


def test_the_manifest_says_where_the_labels_are_from(work: Path, more: Path) -> None:
    before, after = Manifest.load(str(work / "set" / "shards")), Manifest.load(str(more))
    assert (after.ignore_bit, after.folds) == (7, 4)
    assert (after.mean, after.std, after.class_names) == (before.mean, before.std, before.class_names)
    assert after.options["input_sha256"] == before.options["input_sha256"]
    (said,) = after.options["pseudo_labels"]
    assert re.fullmatch("[0-9a-f]{64}", said.pop("checkpoint_sha256"))
    assert before.fold_levels is not None and after.fold_levels is not None
    assert after.fold_levels[:-1] == before.fold_levels and after.fold_levels[-1].num_images == NUM_NEW
    reader = ShardReader(str(more))
    levels = [reader.read(int(row)).image.mean() / 255 for row in reader.index.rows([3])]
    assert after.fold_levels[-1].mean == pytest.approx(np.mean(levels))
    positive = (np.array(after.num_positive) - before.num_positive).tolist()
    assert said == {
        "fold": 3,
        "data_digest": before.digest,
        "unsure": [0.2, 0.8],
        "tta": None,
        "precision": "no",
        "tiff_pages": "refuse",
        "groups": None,
        "held_out_folds": None,
        "images": NUM_NEW,
        "clean": after.num_clean - before.num_clean,
        "per_class": positive,
        "unsure_images": 0,
        "duplicates": 2,
        "held_out": 0,
        "unreadable": 1,
    }


def test_what_was_done_is_told_and_a_second_run_does_nothing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line(work, tmp_path / "out")) == 3
    told = capsys.readouterr()
    assert re.search(rf"^labelled {NUM_NEW} images, in fold 3: \d clean, \d class 1, \d class 2; ", told.out)
    assert "left out: 0 unsure, 2 duplicates of images in the shards, 1 unreadable" in told.out
    assert "warning: left out 1 unreadable image: cut.png (" in told.err
    before = tree_digest(tmp_path)
    assert run(*line(work, tmp_path / "out")) == 0
    assert "already finished, nothing to do" in capsys.readouterr().out
    for option, value in {"unsure": 0.2, "precision": "auto", "tiff-pages": "split"}.items():
        assert run(*line(work, tmp_path / "out", **{option: value})) == 2
        assert f"already holds shards made with another {option.replace('-', '_')}" in capsys.readouterr().err
    assert tree_digest(tmp_path) == before


@pytest.mark.usefixtures("fresh_accelerate")
def test_training_evaluation_and_explore_take_it(
    more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both phases of the smallest preset train on the pseudo-labels, and no program judges by them unasked."""
    quicken(monkeypatch)
    words = [*OPTIONS, "--data", str(more), "--out"]
    assert fit([*words, str(tmp_path / "run")]) == 0
    assert "on 10 images of 2 classes; 4 images validate, 4 are kept for a test" in capsys.readouterr().err
    model = tmp_path / "run" / "model.safetensors"
    judge = ["--checkpoint", str(model), "--data", str(more), "--workers", "0", "--precision", "no"]
    for fold, role in ((1, "test"), (3, "train")):
        assert evaluate([*judge, "--folds", str(fold), "--out", str(tmp_path / role)]) == 0
        assert json.loads((tmp_path / role / "metrics.json").read_text())["role"] == role
    assert steel(["explore", str(more), "--out", str(tmp_path / "page")]) == 0
    with pytest.raises(InputError, match="--fold 3: not a fold to train a member for; there are 0, 1, 2"):
        crossval([*words, str(tmp_path / "crossval"), "--fold", "3"])


def test_an_ensemble_labels_by_its_average_and_shards_are_copied_where_links_cannot_be(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_links)
    both = stack_members([make_member(seed, decision=DECISION) for seed in (1, 2)])
    checkpoint, out = save(tmp_path / "both.safetensors", both), tmp_path / "out"
    assert run(*line(work, out, checkpoint=checkpoint)) == 3
    for tar in (work / "set" / "shards").glob("*.tar"):
        assert (out / tar.name).read_bytes() == tar.read_bytes()
    reader = ShardReader(str(out))
    row = int(reader.index.rows([3])[0])
    name = reader.index.image_id(row).removeprefix("fold-3/")
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu", precision="no")
    (prediction,) = predictor.predict(str(work / "unlabelled" / name))
    label = pseudo_label(DECISION, prediction.mask_probs, prediction.label_probs, UnsureBand())
    assert label is not None
    np.testing.assert_array_equal(reader.read(row).bitmask >> 7, label.ignored)


def test_a_second_round_is_another_fold(work: Path, more: Path, tmp_path: Path) -> None:
    """What the first round has taken is known, too: only the images that came since are new."""
    shutil.copytree(work / "unlabelled", tmp_path / "unlabelled")
    (tmp_path / "unlabelled" / "cut.png").unlink()
    cv2.imwrite(str(tmp_path / "unlabelled" / "line" / "new.png"), picture(200))
    images, out = tmp_path / "unlabelled", tmp_path / "out"
    assert run(*line(work, out, data=more, unlabelled=images)) == 0
    manifest = Manifest.load(str(out))
    assert [said["fold"] for said in manifest.options["pseudo_labels"]] == [3, 4]
    reader = ShardReader(str(out))
    assert [reader.index.image_id(int(row)) for row in reader.index.rows([4])] == ["fold-4/line/new.png"]
    assert verify([str(out), "--workers", "1"]) == 0


@pytest.mark.parametrize("groups", [None, "file"])
def test_where_images_of_one_coil_are_kept_together_it_says_what_it_cannot_know(groups: str | None) -> None:
    labelling = Labelling(SimpleNamespace(number=3), SimpleNamespace(is_tuned=True), None, 1, pixels=1)  # type: ignore[arg-type]
    manifest = SimpleNamespace(class_names=("pit",), options={"groups": groups})
    lines = labelling.lines(SimpleNamespace(manifest=manifest, lines=list))  # type: ignore[arg-type]
    assert any("give --groups here, too" in line for line in lines) is bool(groups)


COILS = {
    "0.png": "a",
    "1.png": "b",
    "2.png": "c",
    "line/0.png": "a",
    "line/1.png": "b",
    "line/2.png": "c",
    "line/3.png": "new",
    "line/4.png": "new",
}
"""Images of the set, one of each fold, and others of the same coils and of one that the set does not know."""


def coils_file(folder: Path, coils: Mapping[str, str]) -> Path:
    path = folder / "coils.csv"
    path.write_text("".join(f"{image},{coil}\n" for image, coil in {"image": "group", **coils}.items()))
    return path


def make_coils(work: Path, folder: Path, *, knows_folds: bool, options: Sequence[str] = ()) -> dict[str, Path]:
    """A set with one of the named images in each fold, and a checkpoint that was trained on the last of them."""
    folds = folder / "folds.csv"
    folds.write_text("image,fold\n" + "".join(f"{number}.png,{number % 3}\n" for number in range(NUM_LABELLED)))
    data = make_set(folder / "set", "--split-file", str(folds), *options)
    member = make_member(1, decision=DECISION)
    digest = Manifest.load(str(data)).digest if knows_folds else "of others"
    used = {"train": (2,), "tuning": (0,), "test": (1,)}
    known = replace(member, folds=used, provenance={**member.provenance, "data_digest": digest})
    return {"data": data, "checkpoint": Path(save(folder / "model.safetensors", known))}


@pytest.mark.parametrize("options", [(), ("--tile", "32x48", "--tile-overlap", "8")])
@pytest.mark.parametrize("knows_folds", [True, False])
def test_images_of_coils_that_judge_stay_out(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture, knows_folds: bool, options: tuple[str, ...]
) -> None:
    """Those of the trained fold's come in, into its group; `again.png`, unnamed, mirrors one of a tuning coil."""
    given = make_coils(work, tmp_path, knows_folds=knows_folds, options=options)
    coils = coils_file(tmp_path, COILS)
    assert run(*line(work, tmp_path / "out", groups=coils, **given)) == 3
    told = capsys.readouterr().out
    reader, before = ShardReader(str(tmp_path / "out")), ShardReader(str(given["data"]))
    new = {reader.index.image_id(int(row)): int(reader.index.group[row]) for row in reader.index.rows([3])}
    taken = {"fold-3/line/3.png", "fold-3/line/4.png", *(["fold-3/line/2.png"] if knows_folds else [])}
    assert new.keys() == taken
    assert f"{6 - len(taken)} of groups that judge, 1 unreadable" in told
    of_set = {before.index.image_id(row): int(reader.index.group[row]) for row in range(len(before))}
    assert [reader.index.group[row] for row in range(len(before))] == before.index.group.tolist()
    assert new["fold-3/line/3.png"] == new["fold-3/line/4.png"] not in of_set.values()
    if knows_folds:
        assert new["fold-3/line/2.png"] == of_set["2.png"]
    assert reader.manifest.options["groups"] == "file"
    assert reader.manifest.options["pseudo_labels"][0]["held_out"] == 6 - len(taken)
    assert verify([str(tmp_path / "out"), "--workers", "1"]) == 0
    assert run(*line(work, tmp_path / "out", groups=coils, **given)) == 0  # finished
    other = coils_file(tmp_path, {**COILS, "line/2.png": "b"})
    assert run(*line(work, tmp_path / "out", groups=other, **given)) == 2


def taken_of(out: Path, fold: int = 3) -> dict[str, int]:
    """New images that came in, with their groups."""
    reader = ShardReader(str(out))
    rows = map(int, reader.index.rows([fold]))
    return {reader.index.image_id(row).removeprefix(f"fold-{fold}/"): int(reader.index.group[row]) for row in rows}


def group_in(out: Path, image_id: str) -> int:
    reader = ShardReader(str(out))
    return next(int(reader.index.group[row]) for row in range(len(reader)) if reader.index.image_id(row) == image_id)


def make_folder(folder: Path, numbers: Mapping[str, int]) -> Path:
    for name, number in numbers.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), picture(number))
    return folder


def test_a_name_that_the_set_has_too_is_of_the_set(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A camera that counts anew: its `1.png` is no image of the test coil, and the set's name for it says of which."""
    given = make_coils(work, tmp_path, knows_folds=True)
    images = make_folder(tmp_path / "unlabelled", {f"{number}.png": 300 + number for number in (1, 2, 3)})
    coils = coils_file(tmp_path, {"1.png": "b", "2.png": "c", "fold-3/2.png": "b", "elsewhere.png": "b"})
    assert run(*line(work, tmp_path / "out", groups=coils, unlabelled=images, **given)) == 0
    assert taken_of(tmp_path / "out").keys() == {"1.png", "3.png"}
    said = "warning: --groups does not name 2 of 3 new images; 1 name in it of no image"
    assert said in capsys.readouterr().out.splitlines()
    make_folder(images, {"fold-3/1.png": 310})
    assert run(*line(work, tmp_path / "other", groups=coils, unlabelled=images, **given)) == 2
    assert "fold-3/1.png would each name two of the new images" in capsys.readouterr().err


def test_what_the_set_keeps_together_links_and_what_the_file_links_is_kept_together(work: Path, tmp_path: Path) -> None:
    """By the set, image 2, which trained, belongs to image 1, which tests; by the file, 5 and 8 are of one coil."""
    of_set = tmp_path / "of_set.csv"
    of_set.write_text("image,group\n1.png,s\n2.png,s\n")
    given = make_coils(work, tmp_path, knows_folds=True, options=["--groups", str(of_set)])
    coils = coils_file(tmp_path, {"2.png": "c", "line/0.png": "c", "5.png": "m", "8.png": "m", "line/1.png": "m"})
    assert run(*line(work, tmp_path / "out", groups=coils, **given)) == 3
    taken = taken_of(tmp_path / "out")
    assert taken.keys() == {"line/1.png", "line/2.png", "line/3.png", "line/4.png"}  # again.png is line/0.png mirrored
    assert taken["line/1.png"] == group_in(tmp_path / "out", "5.png") == group_in(tmp_path / "out", "8.png")
    assert len(set(taken.values())) == 4
    assert verify([str(tmp_path / "out"), "--workers", "1"]) == 0


def test_a_copy_of_an_image_that_judges_tells_of_its_coil(work: Path, tmp_path: Path) -> None:
    """It is left out as a duplicate, and the others of its coil with it."""
    given = make_coils(work, tmp_path, knows_folds=True)
    images = make_folder(tmp_path / "unlabelled", {"copy.png": 1, "of_its_coil.png": 301, "other.png": 302})
    coils = coils_file(tmp_path, {"2.png": "c", "copy.png": "q", "of_its_coil.png": "q", "other.png": "c"})
    assert run(*line(work, tmp_path / "out", groups=coils, unlabelled=images, **given)) == 0
    assert taken_of(tmp_path / "out") == {"other.png": group_in(tmp_path / "out", "2.png")}
    (said,) = Manifest.load(str(tmp_path / "out")).options["pseudo_labels"]
    assert (said["duplicates"], said["held_out"], said["images"]) == (1, 1, 1)


def test_another_round_names_images_as_the_first_did(work: Path, tmp_path: Path) -> None:
    """The set has them in a folder of their own now, which never judges."""
    given = make_coils(work, tmp_path, knows_folds=True)
    assert run(*line(work, tmp_path / "first", groups=coils_file(tmp_path, COILS), **given)) == 3
    images = make_folder(tmp_path / "later", {"5.png": 305, "6.png": 306})
    coils = coils_file(tmp_path, {**COILS, "fold-4/5.png": "new", "fold-4/6.png": "b"})
    later = {**given, "data": tmp_path / "first", "unlabelled": images, "groups": coils}
    assert run(*line(work, tmp_path / "second", **later)) == 0
    assert taken_of(tmp_path / "second", 4) == {"5.png": group_in(tmp_path / "second", "fold-3/line/3.png")}


def test_folds_that_judge_are_named_where_the_checkpoint_has_seen_all(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As members of a cross-validation have, together."""
    given = make_coils(work, tmp_path, knows_folds=True)
    digest = Manifest.load(str(given["data"])).digest
    members = [
        make_member(seed, decision=DECISION, folds=folds, provenance={"data_digest": digest})
        for seed, folds in ((1, {"train": [1, 2], "tuning": [0]}), (2, {"train": [0, 2], "tuning": [1]}))
    ]
    given["checkpoint"] = Path(save(tmp_path / "both.safetensors", stack_members(members)))
    coils = coils_file(tmp_path, COILS)

    def refused(*words: str) -> str:
        capsys.readouterr()
        assert run(*line(work, tmp_path / "out", **given), *words) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists()
        return said

    groups = ("--groups", str(coils))
    assert "--groups: the checkpoint was trained on every fold" in refused(*groups)
    assert "--held-out 3: people have labelled the folds 0, 1, 2 of" in refused(*groups, "--held-out", "1", "3")
    assert "--held-out: is for --groups, which is not given" in refused("--held-out", "1")
    assert run(*line(work, tmp_path / "out", **given), *groups, "--held-out", "1") == 3
    assert "line/1.png" not in taken_of(tmp_path / "out")
    (said,) = Manifest.load(str(tmp_path / "out")).options["pseudo_labels"]
    assert said["held_out"] == 1 and said["images"] + said["unsure_images"] == NUM_NEW - 1
    for words in ((), (*groups, "--held-out", "0")):
        assert run(*line(work, tmp_path / "out", **given), *words) == 2
    told = capsys.readouterr().err
    assert "made with another groups, held_out_folds" in told and "made with another held_out_folds" in told


@pytest.mark.parametrize(
    ("coils", "told"),
    [
        ({"line/0.png": "a"}, "names no image of"),
        ({"0.png": "a"}, "names no image of the folder of --unlabelled"),
        ({"0.png": "a", "1.png": "a", "2.png": "a", **{f"line/{n}.png": "a" for n in range(5)}}, "no image could be"),
    ],
)
def test_groups_that_help_nothing_are_refused(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture, coils: dict[str, str], told: str
) -> None:
    given = make_coils(work, tmp_path, knows_folds=True)
    assert run(*line(work, tmp_path / "out", groups=coils_file(tmp_path, coils), **given)) == 2
    assert told in capsys.readouterr().err
    assert run(*line(work, tmp_path / "out", groups=tmp_path / "no.csv", **given)) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"error: {tmp_path}/no.csv: no such file"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--tile", "32x48", "--tile-overlap", "8"), ("--resize", "32x48")])
def test_new_images_are_stored_as_those_of_the_set(
    work: Path, more: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    data, out = make_set(tmp_path / "set", *options), tmp_path / "out"
    assert run(*line(work, out, data=data)) == 3
    assert verify([str(out), "--workers", "1"]) == 0
    index, whole = ShardReader(str(out)).index, ShardReader(str(more)).index
    rows = index.rows([3])
    size = (32, 48) if "--resize" in options else SIZE
    assert {(int(index.height[row]), int(index.width[row])) for row in rows} == {size}
    assert {(int(index.original_height[row]), int(index.original_width[row])) for row in rows} == {SIZE}
    np.testing.assert_array_equal(index.areas[rows], whole.areas[whole.rows([3])])  # of masks at the images' own size


def changed(work: Path, path: Path, **changes: object) -> str:
    return save(path, replace(make_member(1, decision=DECISION), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("class 1", "rust")}, "its classes are class 1, rust, those of the shards class 1, class 2"),
        ({"class_names": ("class 2", "class 1")}, "its classes are class 2, class 1"),
        ({"depth": Depth("high-byte")}, "it reads images of 16 bits by high-byte, the shards theirs by 8-bit"),
    ],
)
def test_a_checkpoint_of_another_task_is_refused(
    work: Path, tmp_path: Path, changes: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = changed(work, tmp_path / "model.safetensors", **changes)
    assert run(*line(work, tmp_path / "out", checkpoint=checkpoint)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --checkpoint ") and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_unsure_images_are_left_out_and_nothing_is_left_behind_where_none_is_sure(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head that calls no image defective, and is unsure of it, beside masks that find something in all."""
    checkpoint = changed(work, tmp_path / "model.safetensors", decision=replace(DECISION, binary_threshold=255))
    assert run(*line(work, tmp_path / "out", checkpoint=checkpoint)) == 2
    assert "no image could be labelled: 6 unsure, 2 duplicates" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "s3://bucket/shards"}, "--data s3://bucket/shards: give a folder of this machine"),
        ({"out": "memory://shards"}, "--out memory://shards: give a folder of this machine"),
        ({"unlabelled": "nowhere"}, "nowhere: no such folder"),
        ({"data": "nowhere"}, "nowhere: no manifest.json"),
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors: no such file"),
        ({"tta": "upside"}, "upside"),
    ],
)
def test_wrong_inputs_are_one_line(
    work: Path, tmp_path: Path, changes: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line(work, tmp_path / "out", **changes)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_interrupted_it_leaves_nothing_and_says_so_in_one_line(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.further_fold.save_index", interrupt)
    assert run(*line(work, tmp_path / "out")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []
