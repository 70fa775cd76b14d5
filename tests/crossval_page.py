"""The report of a cross-validation without any training: four folds, of which the members miss ever more."""

from pathlib import Path
from typing import Any

import numpy as np

from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.reports.crossval_report import write_crossval
from steel.shards.reader import ShardReader
from steel.thresholds.nested import nested_outcome
from steel.thresholds.tuning import tune_thresholds
from tests.shard_folder import defect_mask, make_shards, steel_image

FOLDS, NUM_IMAGES = 4, 64


def write_crossval_page(folder: Path) -> dict[str, Any]:
    """Shards and report under `folder`; returns what stands in `metrics.json`. The member of fold k
    finds what the images n * 4 + k hold where n % 4 >= k."""
    masks = [defect_mask(n, num_classes=2) for n in range(NUM_IMAGES)]
    shards = make_shards(
        folder / "shards", [steel_image(n) for n in range(NUM_IMAGES)], masks, num_classes=2, folds=FOLDS
    )
    reader, images = ShardReader(shards), []
    for row, mask in enumerate(masks):
        said = np.stack([mask & 1, mask >> 1 & 1]) * (row // FOLDS % 4 >= row % FOLDS)
        present = said.any(axis=(1, 2))
        labels = np.where([present.any(), *present], 240, 15).astype(np.uint8)
        images.append(image_statistics(row, np.where(said, 230, 8).astype(np.uint8), labels, mask))
    statistics = EvaluationStatistics.from_images(images, 2)
    folds = np.asarray(reader.index.fold)
    nested, found = nested_outcome(statistics, folds), tune_thresholds(statistics)
    folder.joinpath("report").mkdir()
    return write_crossval(
        folder / "report", statistics, nested, found, reader, tta=(), provenance={"members": FOLDS, "seed": 0}
    )
