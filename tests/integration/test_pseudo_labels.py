"""Images without labels become a further fold of a set: what goes in, what stays out, and that programs take it."""

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.verify import main as verify
from steel.checkpoint import read_header, stack_members
from steel.cli import main as steel
from steel.errors import InputError
from steel.images.listing import ImageRecord
from steel.images.pixel_format import Depth
from steel.inference.predictor import Predictor
from steel.inference.pseudo_label import UnsureBand, pseudo_label
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.image_folder import tree_digest
from tests.numerics.quick import quicken
from tests.pseudo_labelled import (
    DECISION,
    NUM_NEW,
    SIZE,
    line,
    make_round,
    make_set,
    picture,
    run,
    save,
)
from tests.random_members import make_member
from train.crossval import main as crossval
from train.evaluate import main as evaluate
from train.fit import main as fit

OPTIONS = (
    "--preset smoke --phases.0.epochs 0.5 --phases.1.epochs 0.5 --phases.0.batch-size 4 --phases.1.batch-size 4 "
    "--tracking.tracker none --runtime.workers 0 --runtime.precision no --validation.tta --model.weights none "
    "--model.encoder tu-test_resnet --model.decoder-channels 8 8"
).split()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, images without labels, a checkpoint, and what the program makes of them in `more`; all is only read."""
    folder = tmp_path_factory.mktemp("pseudo")
    return make_round(folder)


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
    for digest in ("checkpoint_sha256", "images_sha256"):
        assert re.fullmatch("[0-9a-f]{64}", said.pop(digest))
    assert before.fold_levels is not None and after.fold_levels is not None
    assert after.fold_levels[:-1] == before.fold_levels and after.fold_levels[-1].num_images == NUM_NEW
    reader = ShardReader(str(more))
    levels = [reader.read(int(row)).image.mean() / 255 for row in reader.index.rows([3])]
    assert after.fold_levels[-1].mean == pytest.approx(np.mean(levels))
    positive = (np.array(after.num_positive) - before.num_positive).tolist()
    assert said == {
        "fold": 3,
        "data_digest": before.digest,
        "seen": [],
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


def test_a_disk_that_fails_ends_it_and_leaves_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(record: ImageRecord) -> bytes:
        raise OSError(errno.EIO, "Input/output error", record.url)

    monkeypatch.setattr(ImageRecord, "read", fail)
    assert run(*line(work, tmp_path / "out")) == 1
    assert re.fullmatch(r"error: .*: cannot be read now \(Input/output error\); .*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_replaced_while_it_is_loaded_is_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The labels would be recorded as those of the one before."""
    monkeypatch.setattr("data_prep.pseudo_labels.__main__.digest_source", lambda checkpoint: "of another")
    assert run(*line(work, tmp_path / "out")) == 2
    assert capsys.readouterr().err.endswith("model.safetensors: has changed meanwhile; give the same command again\n")
    assert list(tmp_path.iterdir()) == []


def test_what_was_done_is_told_and_a_second_run_does_nothing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line(work, tmp_path / "out")) == 3
    told = capsys.readouterr()
    assert re.search(rf"^labelled {NUM_NEW} images, in fold 3: \d clean, \d class 1, \d class 2; ", told.out)
    assert "left out: 0 unsure, 2 duplicates of images in the shards, 1 unreadable" in told.out
    assert "\nwarning: the checkpoint was not trained on these shards: " in told.out
    assert "warning: left out 1 unreadable image: cut.png (" in told.err
    before = tree_digest(tmp_path)
    assert run(*line(work, tmp_path / "out")) == 3
    assert capsys.readouterr() == (
        f"{tmp_path / 'out'}: already finished, nothing to do\n",
        f"warning: {tmp_path / 'out'}: was made without 1 unreadable image\n",
    )
    for option, value, differing in (
        ("unsure", 0.2, "0.2 0.8, not 0.4 0.6"),
        ("precision", "auto", "no, not auto"),
        ("tiff-pages", "split", "refuse, not split"),
    ):
        assert run(*line(work, tmp_path / "out", **{option: value})) == 2
        assert f"already holds shards made with other options: {option} {differing}" in capsys.readouterr().err
    assert tree_digest(tmp_path) == before


def test_a_finished_round_says_that_there_are_other_images_now(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shutil.copytree(work / "unlabelled", tmp_path / "images")
    (images / "cut.png").unlink()
    words = line(work, tmp_path / "out", unlabelled=images)
    assert run(*words) == 0
    before = tree_digest(tmp_path / "out")
    finished = f"{tmp_path / 'out'}: already finished, nothing to do"
    told: list[list[str]] = []
    more = images / "more.png"
    for change in (
        lambda: shutil.copy(sorted(images.iterdir())[0], more),
        more.unlink,
        lambda: [path.unlink() for path in images.rglob("*.png")],
        lambda: shutil.rmtree(images),
    ):
        change()
        capsys.readouterr()
        assert run(*words) == 0
        told.append(capsys.readouterr().out.splitlines())
    others = f"{images} holds other images now; for these, give another --out"
    none = f"{images}: no images there (looked for .jpg, .jpeg, .jfif, .png, .bmp, .tif, .tiff, .webp)"
    assert told == [[finished, others], [finished], [finished, none], [finished]]
    assert tree_digest(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["fold-3-000000.tar", "index.arrow"])
def test_a_finished_round_that_lacks_a_file_is_refused(
    work: Path, more: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(more, tmp_path / "out")
    (out / name).unlink()
    before = tree_digest(out)
    assert run(*line(work, out)) == 2
    assert capsys.readouterr() == (
        "",
        f"error: {out}: finished before, but files are missing or damaged since: {name} (missing); remove the folder "
        "and run this again, or choose another --out\n",
    )
    assert tree_digest(out) == before


@pytest.mark.usefixtures("fresh_accelerate")
def test_training_evaluation_and_explore_take_it(
    work: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both phases of the smallest preset train on the pseudo-labels, and no program judges by them."""
    quicken(monkeypatch)
    words = [*OPTIONS, "--data", str(more), "--out"]
    assert fit([*words, str(tmp_path / "run")]) == 0
    assert "on 10 images of 2 classes; 4 images validate, 4 are kept for a test" in capsys.readouterr().err
    model = tmp_path / "run" / "model.safetensors"
    judge = ["--checkpoint", str(model), "--data", str(more), "--workers", "0", "--precision", "no"]
    for folds, role, images in (("1", "test", 4), ("all", "train", 12)):
        assert evaluate([*judge, "--folds", folds, "--out", str(tmp_path / role)]) == 0
        metrics = json.loads((tmp_path / role / "metrics.json").read_text())
        assert (metrics["role"], metrics["images"]) == (role, images)
    before = work / "set" / "shards"  # whose folds it has kept
    digests = [Manifest.load(str(root)).digest for root in (before, more)]
    assert read_header(model)["provenance"]["data_digests"] == sorted(digests)
    for fold, role in (("0", "tuning"), ("1", "test"), ("2", "train")):
        assert evaluate([*judge, "--data", str(before), "--folds", fold, "--out", str(tmp_path / f"of-{role}")]) == 0
        assert json.loads((tmp_path / f"of-{role}" / "metrics.json").read_text())["role"] == role
    assert steel(["explore", str(more), "--out", str(tmp_path / "page")]) == 0
    with pytest.raises(InputError, match="--fold 3: not a fold to train a member for; there are 0, 1, 2"):
        crossval([*words, str(tmp_path / "crossval"), "--fold", "3"])
    for folds in ("3", "1,3"):
        with pytest.raises(
            InputError, match=f"^--folds {folds}: a checkpoint has labelled fold 3; judge by what people"
        ):
            evaluate([*judge, "--folds", folds, "--out", str(tmp_path / "none")])
    for options in ("--folds.validation 0 3", "--folds.test 3"):
        with pytest.raises(
            InputError, match=f"^{options}: a checkpoint has labelled fold 3; judge by what people have"
        ):
            fit([*words, str(tmp_path / "none"), *options.split()])


@pytest.mark.usefixtures("fresh_accelerate")
def test_the_members_of_a_cross_validation_train_on_it_and_their_file_says_so(
    more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch)
    assert crossval([*OPTIONS, "--data", str(more), "--out", str(tmp_path), "--folds.test", "0"]) == 0
    used = {fold: read_header(tmp_path / f"fold-{fold}" / "model.safetensors")["folds"]["train"] for fold in (1, 2)}
    assert used == {1: [2, 3], 2: [1, 3]}
    joined = read_header(tmp_path / "model.safetensors")["folds"]
    assert joined == {"train": [1, 2, 3], "tuning": [1, 2], "test": [0]}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["folds"], metrics["provenance"]["train_folds"]) == ([1, 2], "1, 2, 3")


@pytest.mark.usefixtures("fresh_accelerate")
def test_labels_of_a_checkpoint_that_has_seen_the_test_fold_are_remembered(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the manifest, by the training, which warns, and by the checkpoint: such a fold is not held out."""
    digest = Manifest.load(str(work / "set" / "shards")).digest
    labeller = make_member(
        1, decision=DECISION, folds={"train": [1, 2], "tuning": [0]}, provenance={"data_digest": digest}
    )
    shards2 = tmp_path / "shards2"
    assert run(*line(work, shards2, checkpoint=save(tmp_path / "labeller.safetensors", labeller))) == 3
    seen = [{"digest": digest, "train": [1, 2], "tuning": [0]}]
    assert Manifest.load(str(shards2)).options["pseudo_labels"][0]["seen"] == seen

    quicken(monkeypatch)
    out = tmp_path / "run"
    assert fit([*OPTIONS, "--data", str(shards2), "--out", str(out), "--folds.test", "1"]) == 0
    warning = "the checkpoint that labelled fold 3 was trained on test folds of this run, whose scores it flatters"
    assert "".join(capsys.readouterr()).count(warning) == 1
    model = str(out / "model.safetensors")
    assert read_header(model)["provenance"]["learned_from"] == [{"source": "pseudo-labels of fold 3", "seen": seen}]
    words = ["--checkpoint", model, "--workers", "0", "--precision", "no", "--out", str(tmp_path / "test")]
    for data in (shards2, work / "set" / "shards"):
        assert evaluate([*words, "--data", str(data)]) == 0
        assert json.loads((tmp_path / "test" / "metrics.json").read_text())["role"] == "train"


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
