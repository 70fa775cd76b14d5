"""The benchmark of pseudo-labels: which images go where, and the whole of it at a tiny size."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.quality import neu, pseudo
from steel.shards.format import Manifest
from tests.shard_folder import make_shards, steel_image
from tests.tiny_pretrained import make_tiny


def test_no_image_that_is_judged_is_among_those_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n}.jpg" for n in range(9)]
    (tmp_path / "source" / "images").mkdir(parents=True)
    for name in names:
        (tmp_path / "source" / "images" / name).write_text(name)
    monkeypatch.setattr(neu, "_deal", lambda source, work, seed: (names[:2], names[2:4], names[4:]))
    others = neu.copy_unlabelled(tmp_path / "source", tmp_path / "work", num_train=2)
    assert sorted(path.name for path in others.iterdir()) == names[6:]


def thick(number: int) -> np.ndarray:
    """A bitmask (64, 64) of two classes that cover nearly all: a network that starts at their share finds them."""
    bitmask = np.full((64, 64), 3, np.uint8)
    bitmask[number % 8] = 0
    return bitmask


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_teacher_control_and_student_are_trained_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_shards(
        tmp_path / "shards",
        [steel_image(n, 64, 64) for n in range(30)],
        [thick(n) for n in range(30)],
        num_classes=2,
        folds=3,
    )
    others = tmp_path / "others"
    others.mkdir()
    for number in range(15):
        cv2.imwrite(str(others / f"{number}.png"), steel_image(100 + number, 64, 64))
    monkeypatch.setattr(pseudo, "make_shards", lambda source, work, num_train: data)
    monkeypatch.setattr(pseudo, "copy_unlabelled", lambda source, work, num_train: others)
    weights = make_tiny(tmp_path, monkeypatch)

    def run() -> str:
        return pseudo.run(tmp_path, weights, tmp_path / "work", seeds=(0,), passes=4, size=10)

    text = run()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2][:4] == ["0", "15", "0", "0"]
    sides = ("teacher", "control", "student")
    assert [row[0] for row in rows[5:11]] == [f"{side}, {how}" for how in pseudo.RULES for side in sides]
    assert len(rows[13:]) == 2 * 2 * 3

    done = sorted((tmp_path / "work").glob("*/trial.json"))
    assert [path.parent.name for path in done] == ["control-8-0", "student-8-0", "teacher-4-0"]
    assert Manifest.load(str(tmp_path / "work" / "pseudo-4-0")).folds == 4
    control, student, teacher = (path.parent.with_name(f"{path.parent.name}.log").read_text() for path in done)
    steps = [re.findall(r"epochs?, (\d+) steps", log) for log in (control, student, teacher)]
    assert steps == [["8", "3"], ["8", "3"], ["4", "2"]]
    before = [path.stat().st_mtime_ns for path in done]
    assert run() == text
    assert [path.stat().st_mtime_ns for path in done] == before  # nothing was trained twice
