"""A small set, images without labels beside it, and a decision for networks of `make_member` on them."""

from pathlib import Path

import cv2
import numpy as np

from data_prep.__main__ import main as shard
from data_prep.pseudo_labels.__main__ import main as program
from steel.checkpoint import Checkpoint, save_checkpoint
from steel.decision import ClassDecision, Decision
from steel.errors import run_program
from tests.random_members import make_member

DECISION = Decision((ClassDecision(128), ClassDecision(120)), binary_threshold=1)
"""The head calls every image defective, so that it agrees with masks."""
SIZE = (64, 96)
NUM_LABELLED, NUM_NEW = 12, 6


def picture(number: int) -> np.ndarray:
    noise = np.random.default_rng(number).integers(0, 256, SIZE, np.uint8)
    return cv2.GaussianBlur(noise, (3, 3), 0.8)


def label_map(number: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    if number % 3:
        labels[8 : 20 + number, 10:30] = 1 + number % 2
    return labels


def make_set(folder: Path, *options: str) -> Path:
    """Shards of twelve images in three folds."""
    for kind, make in (("images", picture), ("masks", label_map)):
        (folder / kind).mkdir(parents=True)
        for number in range(NUM_LABELLED):
            cv2.imwrite(str(folder / kind / f"{number}.png"), make(number))
    line = ["--images", folder / "images", "--labels", folder / "masks", "--out", folder / "shards"]
    line += ["--class-names", "class 1,class 2", "--folds", 3, "--shard-size", 5, "--workers", 1]
    assert shard([*map(str, line), *options]) == 0
    return folder / "shards"


def make_unlabelled(folder: Path) -> Path:
    """Six new images, two of them alike; the set's fifth turned, its sixth as it was; one cut short."""
    (folder / "line").mkdir(parents=True)
    for number in range(NUM_NEW - 1):
        cv2.imwrite(str(folder / "line" / f"{number}.png"), picture(100 + number))
    cv2.imwrite(str(folder / "again.png"), picture(100)[:, ::-1])
    cv2.imwrite(str(folder / "turned.png"), picture(5)[::-1, ::-1])
    cv2.imwrite(str(folder / "6.png"), picture(6))
    (folder / "cut.png").write_bytes((folder / "6.png").read_bytes()[:700])
    return folder


def save(path: Path, checkpoint: Checkpoint) -> str:
    save_checkpoint(path, checkpoint)
    return str(path)


def make_round(folder: Path) -> Path:
    """A set, images without labels, and a checkpoint."""
    make_set(folder / "set")
    make_unlabelled(folder / "unlabelled")
    save(folder / "model.safetensors", make_member(1, decision=DECISION))
    return folder


def line(work: Path, place: Path, **changes: object) -> list[str]:
    """The options of `data_prep.pseudo_labels` on what `make_round` made, with some of them otherwise."""
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
