"""An evaluation of a model whose faults are known, made without a network: the labels and what it "predicts" of them.

Images of 64x96 with up to two rectangles of three classes. The model

- misses every defect of fewer than 64 pixels,
- never sees class 2,
- is right to the pixel and sure of everything else.

Of ten images the label is wrong: it calls class 1 what is class 3, or the other way round, and the model knows better.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steel.decision import ClassDecision, Decision
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.reports.evaluation_report import write_evaluation
from steel.reports.gallery import RANDOM, TYPICAL, GalleryKeeper, Kept, choose
from steel.shards.reader import ShardReader
from tests.shard_folder import make_shards, steel_image

NUM_IMAGES, HEIGHT, WIDTH, NUM_CLASSES = 150, 64, 96, 3
SMALLEST_SEEN = 64
DECISION = Decision((ClassDecision(128, 128),) * NUM_CLASSES, "none", 128)


@dataclass(frozen=True)
class KnownFaults:
    """What was evaluated."""

    out: Path
    metrics: dict[str, Any]
    statistics: EvaluationStatistics
    reader: ShardReader
    swapped: frozenset[str]
    """Image ids whose label is wrong."""


def true_defects(number: int) -> np.ndarray:
    """(3, 64, 96) bool: every third image is clean; class 1 in all sizes, class 2 and 3 large."""
    rng = np.random.default_rng(number)
    masks = np.zeros((NUM_CLASSES, HEIGHT, WIDTH), bool)
    if number % 3 == 0:
        return masks
    kind = number // 3 % NUM_CLASSES
    side = [3, 5, 7, 8, 12, 20, 30][number // 9 % 7] if kind == 0 else 14 + number % 9
    top, left = int(rng.integers(HEIGHT - side)), int(rng.integers(WIDTH - side))
    masks[kind, top : top + side, left : left + side] = True
    return masks


def predicted_probabilities(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the model says of an image: (3, 64, 96) and (4,) uint8."""
    seen = masks.copy()
    seen[1] = False
    seen[[mask.sum() < SMALLEST_SEEN for mask in seen]] = False
    present = seen.any(axis=(1, 2))
    labels = np.where([present.any(), *present], 245, 12).astype(np.uint8)
    return np.where(seen, 242, 5).astype(np.uint8), labels


def evaluate_known_faults(folder: Path) -> KnownFaults:
    """Write the shards and the report under `folder`."""
    truths = [true_defects(number) for number in range(NUM_IMAGES)]
    large = [n for n, t in enumerate(truths) if (t[0].sum() >= 144 or t[2].any())]
    swapped = large[::3][:10]
    labels = [t[[2, 1, 0]] if n in swapped else t for n, t in enumerate(truths)]
    images = [steel_image(n, HEIGHT, WIDTH) for n in range(NUM_IMAGES)]
    reader, out = ShardReader(write_shards(folder, images, labels)), folder / "report"
    predictions = (predicted_probabilities(truth) for truth in truths)
    statistics, kept = judge(reader, predictions, {TYPICAL: [1, 4, 7], RANDOM: [0, 9, 33]})
    names = frozenset(f"images/{n:04d}.png" for n in swapped)
    return KnownFaults(out, write_report(out, reader, statistics, kept), statistics, reader, names)


def write_shards(
    folder: Path, images: Sequence[np.ndarray], labels: Sequence[np.ndarray], extension: str = "png"
) -> Path:
    """One shard of images with their (3, H, W) bool labels, under `folder`; image n is row n."""
    bitmasks = [sum((mask.astype(np.uint8) << k) for k, mask in enumerate(label)) for label in labels]
    return make_shards(
        folder / "shards", images, bitmasks, num_classes=NUM_CLASSES, shard_size=len(images), extension=extension
    )


def judge(
    reader: ShardReader, predictions: Iterable[tuple[np.ndarray, np.ndarray]], wanted: Mapping[str, Sequence[int]]
) -> tuple[EvaluationStatistics, Kept]:
    """Count what is predicted of the images, row by row, and keep what the gallery shows."""
    keeper = GalleryKeeper(DECISION, wanted=frozenset(row for some in wanted.values() for row in some))
    images = []
    for row, (mask_probs, label_probs) in enumerate(predictions):
        bitmask = reader.read(row, original_mask=True).bitmask
        images.append(image_statistics(row, mask_probs, label_probs, bitmask, decision=DECISION))
        keeper.offer(images[-1], bitmask, lambda probs=mask_probs: probs)
    statistics = EvaluationStatistics.from_images(images, NUM_CLASSES, DECISION)
    rows = {**choose([keeper.ranking()]), **wanted}
    kept = Kept(rows, keeper.layers({row for some in rows.values() for row in some}), sorted(keeper.regions))
    return statistics, kept


def write_report(
    out: Path,
    reader: ShardReader,
    statistics: EvaluationStatistics,
    kept: Kept,
    ensemble: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all files of the evaluation to `out`, a new folder; returns what stands in `metrics.json`."""
    out.mkdir()
    return write_evaluation(
        out, statistics, DECISION, reader, kept, folds=[0, 1], role="test", tta=(),
        gates={"none": DECISION, "class": Decision(DECISION.classes, "class")},
        speed={"images_per_second": 12.5, "device": "a <fast> one"},
        provenance={"checkpoint": "runs/first/model.safetensors", "data": "shards", "seed": 0},
        ensemble=ensemble,
    )  # fmt: skip
