"""Kaggle's score of a submission, in plain numpy: what any competitor would write, and nothing of the project."""

import csv
from pathlib import Path
from statistics import fmean

import numpy as np


def decode(runs: str, height: int, width: int) -> np.ndarray:
    mask = np.zeros(height * width, bool)
    numbers = [int(word) for word in runs.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(width, height).T


def read_masks(path: Path) -> dict[tuple[str, int], str]:
    """(ImageId, ClassId) to run lengths, of either form."""
    rows = csv.DictReader(path.read_text().splitlines())
    pairs = [(r.get("ImageId_ClassId") or f"{r['ImageId']}_{r['ClassId']}", r["EncodedPixels"]) for r in rows]
    return {(name.rpartition("_")[0], int(name.rpartition("_")[2])): runs for name, runs in pairs}


def score(submission: Path, truth: Path, sizes: dict[str, tuple[int, int]], num_classes: int) -> dict[str, object]:
    """The mean Dice over all images and classes, and of each class, also where it truly is."""
    said, true = read_masks(submission), read_masks(truth)
    dice = {}
    for image, size in sizes.items():
        for k in range(1, num_classes + 1):
            a, b = decode(said[image, k], *size), decode(true.get((image, k), ""), *size)
            total = int(a.sum()) + int(b.sum())
            dice[image, k] = 1.0 if total == 0 else 2 * int((a & b).sum()) / total
    there = {pair: value for pair, value in dice.items() if true.get(pair)}
    return {
        "mean_dice": fmean(dice.values()),
        "mean_dice_positive": fmean(there.values()),
        "dice_per_class": [fmean(d for (_, c), d in dice.items() if c == k) for k in range(1, num_classes + 1)],
        "dice_positive_per_class": [
            fmean(d for (_, c), d in there.items() if c == k) for k in range(1, num_classes + 1)
        ],
    }
