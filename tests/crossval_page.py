"""The report of a cross-validation without any training: four folds, of which the members miss ever more.

Two images have a defect that nobody labelled, and that the members of their folds see.
"""

from pathlib import Path
from typing import Any

import numpy as np

from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.reports.crossval_report import images_to_see, write_crossval
from steel.reports.gallery import LABELS, RANDOM, TYPICAL, GalleryKeeper, Kept, choose
from steel.shards.reader import ShardReader
from steel.thresholds.nested import nested_outcome
from steel.thresholds.tuning import tune_thresholds
from tests.shard_folder import defect_mask, make_shards, steel_image

FOLDS, NUM_IMAGES = 4, 64
UNLABELLED = (18, 45)
"""Rows; of the folds 2 and 1."""


def member_says(row: int) -> tuple[np.ndarray, np.ndarray]:
    """(2, 32, 64) and (3,) uint8: the member of fold k finds what the images n * 4 + k hold where n % 4 >= k."""
    mask = defect_mask(row, num_classes=2)
    said = np.stack([mask & 1, mask >> 1 & 1]) * (row // FOLDS % 4 >= row % FOLDS)
    if row in UNLABELLED:
        said[0, 8:16, 20:28] = 1
    present = said.any(axis=(1, 2))
    labels = np.where([present.any(), *present], 240, 15).astype(np.uint8)
    return np.where(said, 230, 8).astype(np.uint8), labels


def write_crossval_page(folder: Path, role: str = "test") -> dict[str, Any]:
    """Shards and report under `folder`; returns what stands in `metrics.json`."""
    masks = [defect_mask(n, num_classes=2) for n in range(NUM_IMAGES)]
    shards = make_shards(
        folder / "shards", [steel_image(n) for n in range(NUM_IMAGES)], masks, num_classes=2, folds=FOLDS
    )
    reader = ShardReader(shards)
    images = [image_statistics(row, *member_says(row), mask) for row, mask in enumerate(masks)]
    statistics = EvaluationStatistics.from_images(images, 2)
    folds = np.asarray(reader.index.fold)
    nested, found = nested_outcome(statistics, folds), tune_thresholds(statistics)

    to_see = images_to_see(statistics, nested, folds)
    kinds = {**to_see.kinds, TYPICAL: [1, 2], RANDOM: [0, 3]}
    keepers = [GalleryKeeper(nested.decisions[k], wanted=to_see.rows | {0, 1, 2, 3}) for k in range(FOLDS)]
    for row in to_see.rows | {0, 1, 2, 3}:
        keepers[row % FOLDS].offer(images[row], masks[row], lambda row=row: member_says(row)[0])
    kinds[LABELS] = choose([keeper.ranking() for keeper in keepers])[LABELS]
    layers = {row: seen for keeper in keepers for row, seen in keeper.layers(range(NUM_IMAGES)).items()}
    kept = Kept(kinds, layers, sorted(region for keeper in keepers for region in keeper.regions))
    folder.joinpath("report").mkdir()
    return write_crossval(
        *(folder / "report", statistics, nested, found, reader, kept),
        role=role,
        tta=(),
        provenance={"members": FOLDS, "seed": 0},
        recipe={"phases.0.crop": "32x64, which is small"},
    )
