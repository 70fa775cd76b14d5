"""What `train.evaluate` leaves of images, written by hand."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Image = tuple[str, str, tuple[float, float], tuple[int, int]]
"""Id, result, Dice and true pixels of two classes."""


def answer(dice: float, true: int) -> tuple[int, int]:
    """The fewest predicted pixels, and those of them that are right, which have such a Dice; else as many as true ones,
    with about such a Dice. Of an absent class any seven are wrong.
    """
    if not true:
        return (0, 0) if dice else (7, 0)
    for predicted in range(true + 1):
        right = dice * (predicted + true) / 2
        if right.is_integer() and right <= predicted:
            return predicted, int(right)
    return true, round(dice * true)


def write_report(
    folder: Path,
    images: Sequence[Image],
    names: Sequence[str] = ("spot", "scratch"),
    groups: Sequence[int] | None = None,
    **more: Any,
) -> str:
    """What `train.evaluate` leaves of some images, as far as a comparison reads it."""
    folder.mkdir(parents=True)
    rows = [
        {
            "image_id": image_id,
            "result": result,
            "overlay": "",
            **({} if groups is None else {"group": groups[i]}),
            **{f"dice {name}": dice[k] for k, name in enumerate(names)},
            **{
                f"{what} pixels {name}": pixels
                for k, name in enumerate(names)
                for what, pixels in zip(
                    ("true", "predicted", "right"), (true[k], *answer(dice[k], true[k])), strict=True
                )
            },
        }
        for i, (image_id, result, dice, true) in enumerate(images)
    ]
    with (folder / "per_image.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    mean = float(np.mean([dice for _, _, dice, _ in images]))
    metrics = {
        "images": len(images),
        "mean_dice": mean,
        "mean_dice_all_empty": 0.5,
        "mean_dice_positive": 0.25,
        "miou": None,
        "dice_per_class": dict.fromkeys(names, mean),
        "dice_positive_per_class": dict.fromkeys(names),
        "verdict": {"sentence": "better than answering nothing", "better_than_nothing": True},
        "intervals": {"mean_dice": [mean - 0.1, mean + 0.1]},
        **more,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return str(folder)


FIRST: list[Image] = [
    ("a", "found", (0.5, 1.0), (10, 0)),
    ("b", "miss", (0.0, 1.0), (5, 0)),
    ("c", "clean", (1.0, 1.0), (0, 0)),
    ("d", "false alarm", (0.0, 1.0), (0, 0)),
]
SECOND: list[Image] = [
    ("d", "clean", (1.0, 1.0), (0, 0)),
    ("a", "found", (0.75, 1.0), (10, 0)),
    ("b", "found", (0.5, 1.0), (5, 0)),
    ("c", "clean", (1.0, 1.0), (0, 0)),
    ("e", "clean", (1.0, 1.0), (0, 0)),
]
