"""The ground around a decision, against scoring each decision as a whole."""

from dataclasses import replace

import numpy as np
import pytest

from steel.decision import ClassDecision, Decision
from steel.metrics.scores import decide, score
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.thresholds.landscape import landscapes


@pytest.mark.parametrize("gate", ["none", "soft", "binary+class"])
def test_each_place_is_the_dice_of_that_decision(gate: str) -> None:
    rng = np.random.default_rng(0)
    images = []
    for row in range(12):
        truth = np.zeros((2, 10, 10), bool)
        truth[row % 2, : row % 5, :6] = True
        probs = np.clip(rng.normal(60, 50, truth.shape) + 110 * truth, 0, 255).astype(np.uint8)
        bitmask = (truth[0] + 2 * truth[1]).astype(np.uint8)
        images.append(image_statistics(row, probs, rng.integers(0, 256, 3).astype(np.uint8), bitmask))
    statistics = EvaluationStatistics.from_images(images, 2)
    decision = Decision((ClassDecision(100, 90, 8, 40), ClassDecision(150, 120)), gate, 80)
    for k, ground in enumerate(landscapes(statistics, decision)):
        chosen = decision.classes[k]
        assert chosen.pixel_threshold in ground.pixel_thresholds
        assert chosen.min_area in ground.min_areas
        for i, least in enumerate(ground.min_areas):
            for j, threshold in list(enumerate(ground.pixel_thresholds))[::5]:
                most = None if chosen.max_area is None else max(least, chosen.max_area)
                one = replace(chosen, pixel_threshold=threshold, min_area=least, max_area=most)
                classes = tuple(one if other == k else decision.classes[other] for other in range(2))
                whole = score(decide(statistics, replace(decision, classes=classes)))
                assert ground.dice[i, j] == pytest.approx(whole.dice_per_class[k], abs=1e-12)
