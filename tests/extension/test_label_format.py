"""The label format of a stranger's extension (`boxes.py`): found by itself, read by data_prep, written by convert."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from steel.shards.reader import ShardReader
from tests.paths import ROOT

VARIABLES = os.environ | {
    "STEEL_EXTENSIONS": str(ROOT / "tests" / "extension" / "boxes.py"),
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "CUDA_VISIBLE_DEVICES": "",
}


def run(*line: str) -> str:
    done = subprocess.run([sys.executable, "-m", *line], env=VARIABLES, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((8, 9), np.uint8))
    (tmp_path / "labels.boxes").write_text("a.png pit 1 2 4 6\na.png dent 0 0 9 1\n")
    return tmp_path


def test_it_goes_into_shards_in_worker_processes(folder: Path) -> None:
    line = ["--images", folder / "images", "--labels", folder / "labels.boxes", "--out", folder / "shards"]
    out = run("data_prep", *map(str, line), "--folds", "1", "--workers", "2", "--shard-size", "1")
    assert "2 images in 2 shards: 1 clean, 1 pit, 1 dent" in out
    assert ShardReader(str(folder / "shards")).manifest.class_names == ("pit", "dent")


def test_convert_reads_and_writes_it(folder: Path) -> None:
    line = [str(folder / "labels.boxes"), "--images", str(folder / "images")]
    run("steel.cli", "convert", *line, "--to", "boxes", "--out", str(folder / "areas"))
    assert (folder / "areas").read_text() == "a.png pit 12\na.png dent 9"


def test_help_lists_it() -> None:
    assert "boxes: lines of boxes" in " ".join(run("data_prep", "--help").split())


def test_a_format_of_predictions_is_an_option() -> None:
    assert "counts: regions an image (counts.txt)" in " ".join(run("steel.cli", "predict", "--help").split())
