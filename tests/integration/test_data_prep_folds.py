"""Folds: duplicates share one, a split file is followed, and a split that cannot be is refused."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.options import Options, SplitOptions
from data_prep.plan import make_plan
from steel.errors import InputError
from steel.reports.explore_data import data_of_shards
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.image_folder import HEIGHT, NUM_IMAGES, WIDTH, arguments, image_name, last_line, texture, tree_digest


def test_duplicates_share_a_group_and_a_fold(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        strip = cv2.resize(texture(200 + number), (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(own_folder / "images" / f"twin{number}a.png"), strip)
        cv2.imwrite(str(own_folder / "images" / f"twin{number}b.png"), np.flipud(np.rot90(strip)))
    assert main(arguments(own_folder, own_folder / "out")) == 0
    assert "8 images lie in 4 groups of duplicates" in capsys.readouterr().out
    report = json.loads((own_folder / "out" / "duplicates.json").read_text())
    assert sorted(map(sorted, report["groups"])) == [[f"twin{n}a.png", f"twin{n}b.png"] for n in range(4)]
    index = ShardReader(own_folder / "out").index
    place = {index.image_id(row): (index.group[row], index.fold[row]) for row in range(len(index))}
    assert all(place[f"twin{n}a.png"] == place[f"twin{n}b.png"] for n in range(4))
    assert Manifest.load(str(own_folder / "out")).num_groups == NUM_IMAGES + 4


@pytest.mark.parametrize("more", [[], ["--tile", "64x200"]])
def test_exact_copies_of_smooth_steel_share_a_fold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """Tiled and whole, by parts too; apart where duplicates are not looked for."""
    (tmp_path / "images").mkdir()
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n0_a.png,1,1 3\n")
    for number in range(8):
        noise = np.random.default_rng(number).normal(100 + number, 0.7, (128, 800))
        for copy in "ab":
            cv2.imwrite(str(tmp_path / "images" / f"{number}_{copy}.png"), np.clip(noise, 0, 255).astype(np.uint8))
    line = [*arguments(tmp_path, tmp_path / "out"), *more]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "16 images lie in 8 groups of duplicates" in said
    assert "too little texture to look for more than exact copies: 16 images" in said
    report = json.loads((tmp_path / "out" / "duplicates.json").read_text())
    assert sorted(map(sorted, report["groups"])) == [[f"{n}_a.png", f"{n}_b.png"] for n in range(8)]
    index = ShardReader(tmp_path / "out").index
    places = {index.image_id(row): (index.group[row], index.fold[row]) for row in range(len(index))}
    assert all(places[f"{n}_a.png"] == places[f"{n}_b.png"] for n in range(8))
    parts = [*arguments(tmp_path, tmp_path / "parts"), *more]
    for part in (["--part", "2/2"], ["--part", "1/2"], ["--join", "2"]):
        assert main([*parts, *part]) == 0
    assert tree_digest(tmp_path / "parts") == tree_digest(tmp_path / "out")
    assert main([*arguments(tmp_path, tmp_path / "apart"), *more, "--no-group-duplicates"]) == 0
    assert Manifest.load(str(tmp_path / "apart")).num_groups == 16


def test_duplicates_are_not_looked_for_when_not_asked(own_folder: Path) -> None:
    assert main([*arguments(own_folder, own_folder / "out"), "--no-group-duplicates"]) == 0
    assert not (own_folder / "out" / "duplicates.json").exists()
    assert ShardReader(own_folder / "out").index.group.tolist() == list(range(NUM_IMAGES))


def test_a_split_file_is_followed_and_leaks_are_told(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strip = cv2.resize(texture(300), (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    for name in ("twin_a.png", "twin_b.png"):
        cv2.imwrite(str(own_folder / "images" / name), strip)
    folds = {**{image_name(n): n % 4 for n in range(NUM_IMAGES)}, "twin_a.png": 0, "twin_b.png": 1}
    split = own_folder / "split.csv"
    split.write_text("image,fold\n" + "".join(f"{name},{fold}\n" for name, fold in folds.items()))
    assert main(arguments(own_folder, own_folder / "out", split_file=split)) == 0
    assert "warning: a group of duplicates lies in more than one fold" in capsys.readouterr().out
    index = ShardReader(own_folder / "out").index
    assert {index.image_id(row): int(index.fold[row]) for row in range(len(index))} == folds
    assert Manifest.load(str(own_folder / "out")).folds == 4


def write_coils(folder: Path, num: int) -> Path:
    """Every image but the last belongs to one of so many coils."""
    path = folder / "coils.csv"
    rows = [f"{image_name(n)},coil {n % num}\n" for n in range(NUM_IMAGES - 1)]
    path.write_text("image,group\n" + "".join(rows))
    return path


def test_images_that_belong_together_share_a_fold(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strip = cv2.resize(texture(400), (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    for name in ("twin_a.png", "twin_b.png"):
        cv2.imwrite(str(own_folder / "images" / name), strip)
    coils = write_coils(own_folder, 4)
    coils.write_text(coils.read_text() + "twin_b.png,coil 2\n")
    assert main(arguments(own_folder, own_folder / "out", groups=coils)) == 0
    assert f"{coils}: 4 groups of images that belong together, 2 alone" in capsys.readouterr().out
    reader = ShardReader(own_folder / "out")
    row_of = {reader.index.image_id(row): row for row in range(len(reader))}
    of_coil = {k: {row_of[image_name(n)] for n in range(k, NUM_IMAGES - 1, 4)} for k in range(4)}
    of_coil[2] |= {row_of["twin_a.png"], row_of["twin_b.png"]}  # the first one as a copy of the second
    for column in (reader.index.group, reader.index.fold):
        assert all(len({int(column[row]) for row in rows}) == 1 for rows in of_coil.values())
    assert reader.manifest.num_groups == 5
    assert reader.manifest.options["groups"] == "file"
    # Images of a coil are no copies of each other: those with other labels are no mistake.
    of = data_of_shards(own_folder / "out").group
    assert len(np.unique(of)) == NUM_IMAGES + 1 and of[row_of["twin_a.png"]] == of[row_of["twin_b.png"]]


def test_groups_that_a_given_split_parts_are_told(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = own_folder / "split.csv"
    split.write_text("image,fold\n" + "".join(f"{image_name(n)},{n % 2}\n" for n in range(NUM_IMAGES)))
    given = {"groups": write_coils(own_folder, 3), "split_file": split}
    assert main([*arguments(own_folder, own_folder / "out", **given), "--no-group-duplicates"]) == 0
    said = capsys.readouterr().out
    assert "warning: 3 groups of images that belong together lie in more than one fold of the given split" in said
    assert data_of_shards(own_folder / "out").group.tolist() == list(range(NUM_IMAGES))


def test_a_job_whose_groups_have_changed_is_another_of_the_same_shards(own_folder: Path) -> None:
    """What was dealt by the older file is not taken for finished, nor is it written again."""
    coils = write_coils(own_folder, 4)
    images, labels = str(own_folder / "images"), str(own_folder / "train.csv")
    options = Options(images, str(own_folder / "out"), labels, split_options=SplitOptions(3, groups_file=str(coils)))
    before = make_plan(options)
    write_coils(own_folder, 3)
    after = make_plan(options)
    assert after.fingerprint != before.fingerprint and after.shards_fingerprint == before.shards_fingerprint


def test_a_finished_set_is_not_taken_for_one_without_its_groups(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_groups = arguments(own_folder, own_folder / "out", groups=write_coils(own_folder, 4))
    without = arguments(own_folder, own_folder / "out")
    for first, second, differing in (
        (with_groups, without, "of a file, not none"),
        (without, with_groups, "none, not of a file"),
    ):
        shutil.rmtree(own_folder / "out", ignore_errors=True)
        assert main(first) == 0
        assert main(second) == 2
        told = f"already holds shards made with other options: groups {differing}; choose another --out"
        assert told in last_line(capsys)
        assert main(first) == 0
        assert "already finished, nothing to do" in capsys.readouterr().out


def test_groups_of_tiled_images_and_parts_of_a_job(own_folder: Path) -> None:
    coils = write_coils(own_folder, 4)
    assert main(arguments(own_folder, own_folder / "whole", groups=coils)) == 0
    assert main([*arguments(own_folder, own_folder / "tiles", groups=coils), "--tile", "32x32"]) == 0
    parts = arguments(own_folder, own_folder / "parts", groups=coils)
    for options in (["--part", "1/2"], ["--part", "2/2"], ["--join", "2"]):
        assert main([*parts, *options]) == 0
    folds = []
    for name in ("whole", "tiles", "parts"):
        index = ShardReader(own_folder / name).index
        folds.append({index.image_id(row): (int(index.fold[row]), int(index.group[row])) for row in range(len(index))})
    assert folds[0] == folds[1] == folds[2]


def test_groups_larger_than_an_even_fold_are_told_and_train(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 17 images 8 and 8 are of one coil each, the last is alone; an even fold has 6."""
    line = arguments(own_folder, own_folder / "out", groups=write_coils(own_folder, 2), folds=3)
    for options, advice in (([], "see duplicates.json: where"), (["--no-group-duplicates"], "give --groups that are")):
        shutil.rmtree(own_folder / "out", ignore_errors=True)
        assert main([*line, *options]) == 0
        said = capsys.readouterr().out
        assert "folds of 1, 8, 8 images" in said
        assert f"warning: 8 of 17 images belong together, more than the 6 of an even fold; {advice}" in said


def test_folds_of_few_groups_are_told(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(own_folder, own_folder / "out", groups=write_coils(own_folder, 7), folds=2)) == 0
    assert (
        "warning: fewer than 6 groups lie in folds 0 (4), 1 (4): scores of these will have no"
        in capsys.readouterr().out
    )
    assert main(arguments(own_folder, own_folder / "one", groups=write_coils(own_folder, 7), folds=1)) == 0
    assert "groups lie in" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage", ['{"groups": [["gone.png", "also.png"]]}', '{"groups": [["', "[1]", '{"groups": [[]]}']
)
def test_a_damaged_list_of_duplicates_is_one_line(damage: str, own_folder: Path) -> None:
    assert main(arguments(own_folder, own_folder / "out", groups=write_coils(own_folder, 4))) == 0
    (own_folder / "out" / "duplicates.json").write_text(damage)
    with pytest.raises(InputError, match=r"duplicates\.json: damaged, or of another set; make the shards again"):
        data_of_shards(own_folder / "out")


def test_groups_too_few_for_the_folds_are_refused_before_the_work(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(own_folder, own_folder / "out", groups=write_coils(own_folder, 1))) == 2
    told = f"error: {NUM_IMAGES} images in 2 groups cannot fill 3 folds; give a smaller --folds"
    assert last_line(capsys) == told
    assert not (own_folder / "out").exists()


def test_a_split_that_cannot_be_is_refused_before_the_work(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = own_folder / "split.csv"
    split.write_text("image,fold\ncoil0/strip.000.jpg,0\n")
    for options in ({"split_file": split}, {"split": "severstal-classic"}, {"folds": 18}):
        assert main(arguments(own_folder, own_folder / "out", **options)) == 2
        last_line(capsys)
        assert not (own_folder / "out").exists()


def test_one_fold_is_one(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, tmp_path / "out", folds=1)) == 0
    assert f"\none fold of {NUM_IMAGES} images\n" in capsys.readouterr().out
    assert ShardReader(tmp_path / "out").manifest.folds == 1


def write_near_duplicates(folder: Path) -> list[Path]:
    """Twelve images of four pieces, each taken three times, with a mask each."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    strips = [cv2.resize(texture(n), (4 * WIDTH, 4 * HEIGHT), interpolation=cv2.INTER_CUBIC) for n in range(4)]
    for number in range(12):
        noisy = strips[number // 3].astype(np.int16) + np.random.default_rng(number).integers(-2, 3, strips[0].shape)
        cv2.imwrite(str(folder / f"images/{number:02d}.png"), np.clip(noisy, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / f"masks/{number:02d}.png"), np.full(strips[0].shape, number % 2, np.uint8))
    return sorted((folder / "images").iterdir())


def test_near_duplicates_too_few_for_the_folds_are_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_near_duplicates(tmp_path)
    out = tmp_path / "out"
    assert main(arguments(tmp_path, out, labels=tmp_path / "masks", folds=5)) == 2
    told = last_line(capsys)
    assert told.startswith("error: 12 images in 4 groups of near-duplicates cannot fill 5 folds: give a smaller --fold")
    assert f"where those of {out}/duplicates.json are different pieces, --no-group-duplicates" in told
    assert (out / "duplicates.json").exists()


@pytest.mark.parametrize("options", [["--folds", "3"], ["--no-group-duplicates"], ["--folds", "2", "--groups", "CSV"]])
def test_a_job_whose_folds_cannot_be_goes_on_with_others(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is read again: folds are in the index alone. The set is then the one of those options from the start."""
    images = write_near_duplicates(tmp_path)
    groups = tmp_path / "groups.csv"
    groups.write_text("image,group\n00.png,a\n03.png,a\n")
    options = [str(groups) if option == "CSV" else option for option in options]
    line = arguments(tmp_path, tmp_path / "out", labels=tmp_path / "masks", folds=5)
    assert main(line) == 2
    last_line(capsys)
    assert main([*line, "--seed", "1"]) == 2  # the order in the shards is another
    assert "holds an unfinished job with other options: seed 0, not 1" in last_line(capsys)
    inode = {path: path.stat().st_ino for path in (tmp_path / "out").glob("*.tar")}
    assert len(inode) == 3 and len(images) == 12
    assert main([*line, *options]) == 0
    assert "started over" not in capsys.readouterr().out
    assert {path: path.stat().st_ino for path in (tmp_path / "out").glob("*.tar")} == inode
    anew = arguments(tmp_path, tmp_path / "anew", labels=tmp_path / "masks", folds=5)
    assert main([*anew, *options]) == 0
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "anew")
    assert main([*line, *options]) == 0
    assert "already finished" in capsys.readouterr().out


def test_parts_are_joined_with_other_folds_and_signatures_are_made_where_they_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_near_duplicates(tmp_path)
    given = {"labels": tmp_path / "masks", "folds": 5}
    plain = [*arguments(tmp_path, tmp_path / "out", **given), "--no-group-duplicates"]
    for part in ("1/2", "2/2"):
        assert main([*plain, "--part", part]) == 0
    assert main([*plain, "--folds", "4", "--part", "1/2"]) == 2  # another part may be at work
    assert "holds an unfinished job with other options: folds 5, not 4" in last_line(capsys)
    assert main([*plain, "--folds", "4", "--join", "2"]) == 0
    assert Manifest.load(str(tmp_path / "out")).folds == 4

    again = [*arguments(tmp_path, tmp_path / "again", **given), "--no-group-duplicates", "--part", "1/2"]
    assert main(again) == 0
    assert main(arguments(tmp_path, tmp_path / "again", labels=tmp_path / "masks", folds=3)) == 0
    assert main(arguments(tmp_path, tmp_path / "whole", labels=tmp_path / "masks", folds=3)) == 0
    assert tree_digest(tmp_path / "again") == tree_digest(tmp_path / "whole")
