"""Folds: duplicates share one, a split file is followed, and a split that cannot be is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from tests.image_folder import HEIGHT, NUM_IMAGES, WIDTH, arguments, image_name, last_line, texture


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
