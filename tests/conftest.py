"""Data shared by the tests: a tiny Severstal-shaped set, synthesised and sharded once a session."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's layout: 27 training and 5 test images of 64x160."""
    from steel.data.synthetic import synthesize

    out = tmp_path_factory.mktemp("tiny") / "data"
    synthesize(str(out), 27, 5, 0, height=64, width=160, class_share=(0.2, 0.2, 0.3, 0.2), workers=1)
    return out


@pytest.fixture(scope="session")
def tiny_shards(tiny_data: Path) -> Path:
    """The training images of `tiny_data` in 3 folds; 27 is a multiple neither of 2 nor of 4."""
    from data_prep.__main__ import main

    out = tiny_data.parent / "shards"
    options = ["--images", tiny_data / "train_images", "--annotations", tiny_data / "train.csv", "--out", out]
    assert main([str(o) for o in (*options, "--folds", 3, "--shard-size", 10, "--workers", 1)]) == 0
    return out
