"""Which rows play which role in a run, and what is said where none is left to train on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from steel.config import FoldsConfig
from steel.errors import SharedError
from steel.shards.reader import ShardReader
from tests.shard_folder import make_shards, steel_image
from train.engine.data import check_test_folds, say_missing_classes, say_shared_groups, split_rows
from train.engine.run_progress import announce_data
from train.options import parse_fields
from train.presets import SEVERSTAL, SMOKE


def reader_of(root: Path, folds: int) -> ShardReader:
    """Of four images, dealt to so many folds."""
    images, clean = [steel_image(n) for n in range(4)], [np.zeros((32, 64), np.uint8)] * 4
    return ShardReader(str(make_shards(root / "shards", images, clean, folds=folds)))


@pytest.mark.parametrize(
    ("present", "folds", "message"),
    [
        (
            1,
            FoldsConfig(),
            "train folds: no fold is left beside --folds.validation 0 and --folds.test 1; the shards have fold 0; deal "
            "the images to at least 3 with data_prep --folds",
        ),
        (
            1,
            FoldsConfig(test=()),
            "beside --folds.validation 0; the shards have fold 0; deal the images to at least 2",
        ),
        (
            2,
            FoldsConfig(),
            "no fold is left beside --folds.validation 0 and --folds.test 1; the shards have folds 0, 1; name fewer "
            "there (--folds.test without a number tests on none), or deal the images to at least 3 with",
        ),
        (3, FoldsConfig((0, 2), (1,)), "beside --folds.validation 0 2 and --folds.test 1; .* at least 4 with"),
    ],
)
def test_where_no_fold_is_left_to_train_on_it_is_said_what_to_do(
    present: int, folds: FoldsConfig, message: str, tmp_path: Path
) -> None:
    expected = message.replace("(--folds.test without a number tests on none)", r"\(--folds.test without .* on none\)")
    with pytest.raises(SharedError, match=expected):  # which rank 0 alone says
        split_rows(reader_of(tmp_path, present), folds)


def test_a_fold_that_is_to_be_kept_for_the_test_is_there(tmp_path: Path) -> None:
    """The default's need not be: nobody has asked for it."""
    reader = reader_of(tmp_path, 3)
    with pytest.raises(SharedError, match=r"--folds\.test: test folds: fold 3 is not in the shards; .* folds 0, 1, 2$"):
        check_test_folds(reader, FoldsConfig(validation=(0,), test=(1, 3)))
    check_test_folds(reader, FoldsConfig(validation=(0,), test=(1, 2)))
    check_test_folds(reader, FoldsConfig(validation=(0,), test=()))
    assert len(split_rows(reader, FoldsConfig(validation=(0,), test=(3,))).test) == 0


def test_what_is_advised_works(tmp_path: Path) -> None:
    """Of two folds, one to validate and none to test; of three, the default roles."""
    given = parse_fields("fit", SEVERSTAL, ["--folds.test"]).folds
    rows = split_rows(reader_of(tmp_path / "two", 2), given)
    assert (rows.train_folds, len(rows.train), len(rows.validation), len(rows.test)) == ((1,), 2, 2, 0)
    rows = split_rows(reader_of(tmp_path / "three", 3), FoldsConfig())
    assert (rows.train_folds, len(rows.train), len(rows.validation), len(rows.test)) == ((2,), 1, 2, 1)


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ([0, 1, 2, 3, 4, 5], []),
        ([0, 1, 0, 2, 3, 0], ["2 of 2 images that train are near-duplicates of validation images"]),
        ([0, 1, 1, 0, 1, 2], ["1 of 2 images that train are near-duplicates of test images"]),
        ([0, 1, 0, 2, 2, 1], [f"1 of 2 images that train are near-duplicates of {role}" for role in ("vali", "test")]),
    ],
)
def test_images_that_train_and_belong_to_such_that_judge_are_told(
    group: list[int], told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Images 0 and 3 validate, 1 and 4 test, 2 and 5 train."""
    images, clean = [steel_image(n) for n in range(6)], [np.zeros((32, 64), np.uint8)] * 6
    reader = ShardReader(str(make_shards(tmp_path / "shards", images, clean, folds=3, groups=group)))
    assert reader.index.fold.tolist() == [0, 1, 2, 0, 1, 2]
    lines = say_shared_groups(reader, split_rows(reader, FoldsConfig()))
    assert len(lines) == len(told) and all(line.startswith(start) for line, start in zip(lines, told, strict=True))
    runtime = SimpleNamespace(accelerator=SimpleNamespace(mixed_precision="no"), world=1, device="cpu")
    with caplog.at_level("WARNING", logger="train.fit"):
        announce_data(SMOKE, reader, split_rows(reader, FoldsConfig()), cast(Any, runtime))
    assert [record.getMessage() for record in caplog.records] == [f"WARNING: {line}" for line in lines]


def test_classes_that_no_image_has_to_learn_from_or_to_validate_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Images 0 and 3 validate, 1 and 4 test, 2 and 5 train: class 1 is in all, class 2 in image 0 alone, class 3 in
    the two that test, class 4 in those that train, class 5 nowhere."""
    bitmasks = [np.full((32, 64), bits, np.uint8) for bits in (0b00011, 0b00101, 0b01001, 0b00001, 0b00101, 0b01001)]
    data = make_shards(tmp_path / "shards", [steel_image(n) for n in range(6)], bitmasks, num_classes=5, folds=3)
    reader = ShardReader(str(data))
    names, rows = reader.manifest.class_names, split_rows(reader, FoldsConfig())
    told = [
        f"no image that trains has {names[1]}, though 1 other has it: nothing here teaches it",
        f"no image that trains has {names[2]}, though 2 others have it: nothing here teaches it",
        f"no image that validates has {names[2]}, though 2 others have it: no validation can say whether it is found",
        f"no image that validates has {names[3]}, though 2 others have it: no validation can say whether it is found",
    ]
    assert say_missing_classes(reader, rows) == told
    runtime = SimpleNamespace(accelerator=SimpleNamespace(mixed_precision="no"), world=1, device="cpu")
    with caplog.at_level("WARNING", logger="train.fit"):
        announce_data(SMOKE, reader, rows, cast(Any, runtime))
    assert [record.getMessage() for record in caplog.records] == [f"WARNING: {line}" for line in told]
