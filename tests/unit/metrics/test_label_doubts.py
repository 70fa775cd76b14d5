"""Which images may have a wrong label, told without their pixels."""

import numpy as np
import pytest

from steel.decision import default_decision
from steel.metrics.label_doubts import disagreeing_regions, may_be_doubted, rank_doubts
from steel.metrics.scores import decide
from steel.metrics.statistics import EvaluationStatistics, image_statistics


def block(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Bool: a rectangle anywhere, in any size."""
    mask = np.zeros(shape, bool)
    (top, left), (tall, wide) = rng.integers((24, 36)), rng.integers(1, 16, 2)
    mask[top : top + tall, left : left + wide] = True
    return mask


@pytest.mark.parametrize("seed", range(1, 6))
def test_none_that_is_in_doubt_is_left_out(seed: int) -> None:
    """Labels and predictions by chance, of models that are right ever less often; some pixels without a truth."""
    rng = np.random.default_rng(seed)
    images, regions = [], []
    for row in range(80):
        true = np.stack([block((24, 36), rng) & (rng.random() < 0.5) for _ in range(2)])
        said = np.stack([m if rng.random() > seed / 6 else block((24, 36), rng) & (rng.random() < 0.5) for m in true])
        bitmask = (true[0] | true[1] << 1).astype(np.uint8) | 4 * block((24, 36), rng)
        probs = np.where(said, rng.integers(150, 256), rng.integers(0, 80)).astype(np.uint8)
        labels = rng.integers(0, 256, 3).astype(np.uint8)
        images.append(image_statistics(row, probs, labels, bitmask, ignore_bit=2))
        regions += disagreeing_regions(row, images[-1].histograms, probs, labels, bitmask, ignore_bit=2)
    statistics = EvaluationStatistics.from_images(images, 2)
    counts = decide(statistics, default_decision(2)).counts
    doubts = rank_doubts(regions, statistics.histograms, counts)
    seen = np.flatnonzero(may_be_doubted(statistics.histograms, statistics.label_probs, counts))
    assert doubts and {doubt.row for doubt in doubts} <= set(seen.tolist())
    assert len(seen) < 80, "a second look at every image is none that is spared"
    assert rank_doubts([r for r in regions if r.row in seen], statistics.histograms, counts) == doubts
