"""BSData: photographs of machined steel with small pits, dealt to folds by the place on the spindle that they show."""

import csv
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.trial import TEST, VALIDATION
from data_prep.__main__ import main as shard

SIZE = (230, 565)
"""Half of the height and width of most images."""
SHARES = {TEST: 0.25, VALIDATION: 0.15}
"""Of the images, at least; the others train."""


def make_shards(source: Path, work: Path, *, seed: int = 0) -> Path:
    """Shards at `SIZE`: fold 0 validates, fold 1 tests, the others train.

    Args:
        source: BSData, with images/, labelme/ and groups.csv (image,group).
        work: where they go.
        seed: of the split.
    """
    out = work / "shards"
    if (out / "manifest.json").exists():
        return out
    with (source / "groups.csv").open(newline="") as file:
        fold_of = deal({row["image"]: row["group"] for row in csv.DictReader(file)}, seed)
    split = work / "split.csv"
    with split.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "fold"), *sorted(fold_of.items())])
    labels = ("--images", str(source / "images"), "--labels", str(source / "labelme"))
    options = ("--resize", "{}x{}".format(*SIZE), "--no-group-duplicates")
    dealt = ("--split-file", str(split), "--groups", str(source / "groups.csv"))
    if shard([*labels, "--out", str(out), *options, *dealt]) != 0:
        sys.exit(1)
    return out


def deal(group_of: Mapping[str, str], seed: int) -> dict[str, int]:
    """Each image's fold: groups in random order fill the test, then the validation, then the training images."""
    sizes = Counter(group_of.values())
    names: Sequence[str] = sorted(sizes)
    order = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    fold_of_group: dict[str, int] = {}
    for fold, share in SHARES.items():
        filled = 0
        while order and filled < share * len(group_of):
            group = order.pop()
            fold_of_group[group] = fold
            filled += sizes[group]
    return {image: fold_of_group.get(group, 2) for image, group in group_of.items()}
