"""Images without labels of coils and pieces that are known: what belongs to images that judge stays out of the set."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from data_prep.pseudo_labels.labelling import Labelling
from data_prep.verify import main as verify
from steel import storage
from steel.checkpoint import stack_members
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.pseudo_labelled import DECISION, NUM_LABELLED, NUM_NEW, line, make_round, make_set, picture, run, save
from tests.random_members import make_member


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, images without labels and a checkpoint; all is only read."""
    return make_round(tmp_path_factory.mktemp("groups"))


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
    assert run(*line(work, tmp_path / "out", groups=coils, **given)) == 3  # finished
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


def test_names_in_the_file_may_write_accents_in_another_way(work: Path, tmp_path: Path) -> None:
    given = make_coils(work, tmp_path, knows_folds=True)
    there, named = (unicodedata.normalize(form, "Öl/1.png") for form in ("NFD", "NFC"))
    images = make_folder(tmp_path / "unlabelled", {there: 300, "2.png": 301})
    coils = coils_file(tmp_path, {"1.png": "b", named: "b"})
    assert run(*line(work, tmp_path / "out", groups=coils, unlabelled=images, **given)) == 0
    assert taken_of(tmp_path / "out").keys() == {"2.png"}


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
    digest = storage.digest_file(coils)[:8]
    assert f"with other options: groups {digest}, not none; held-out-folds 1, not none; choose" in told
    assert "with other options: held-out-folds 1, not 0; choose" in told


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
