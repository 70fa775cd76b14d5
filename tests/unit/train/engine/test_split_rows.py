"""Which images train, validate and test."""

from pathlib import Path

import pytest

from steel.config import FoldsConfig
from steel.errors import InputError
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine.data import split_rows


def test_two_folds_leave_none_to_train_on_unless_none_is_kept_for_a_test(tmp_path: Path) -> None:
    images, masks = ([make(n, 32, 64) for n in range(6)] for make in (steel_image, defect_mask))
    reader = ShardReader(str(make_shards(tmp_path / "shards", images, masks, folds=2)))
    with pytest.raises(InputError, match=r"folds 0, 1 is left to train on; .*--folds\.test .*data_prep --folds$"):
        split_rows(reader, FoldsConfig())
    rows = split_rows(reader, FoldsConfig(test=()))
    assert (rows.train_folds, rows.train.tolist(), rows.validation.tolist()) == ((1,), [1, 3, 5], [0, 2, 4])
    assert rows.test.tolist() == []
