"""The run-length texts that are decoded and encoded; the standard library only."""

import csv
import random

HEIGHT, WIDTH = 256, 1600


def load_strings(path: str, count: int) -> list[str]:
    """Up to `count` masks of a Kaggle CSV (ImageId,ClassId,EncodedPixels), always the same ones."""
    with open(path, encoding="utf-8", newline="") as file:
        strings = [row["EncodedPixels"] for row in csv.DictReader(file) if row["EncodedPixels"]]
    return random.Random(0).sample(strings, min(count, len(strings)))
