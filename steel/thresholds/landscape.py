"""The ground around the chosen thresholds: what each class would score with others, all else as decided."""

from dataclasses import dataclass, replace

import numpy as np

from steel.decision import Decision, kept
from steel.metrics.counts import PREDICTED, counts_from, dice
from steel.metrics.statistics import EvaluationStatistics

PIXEL_THRESHOLDS = tuple(range(16, 256, 16))
AREA_FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class Landscape:
    """Of one class."""

    pixel_thresholds: tuple[int, ...]
    min_areas: tuple[int, ...]
    dice: np.ndarray
    """(areas, thresholds) float: the class's mean Dice."""


def landscapes(statistics: EvaluationStatistics, decision: Decision) -> list[Landscape]:
    """Mean Dice of each class over pixel thresholds and least areas, with its chosen ones among them.

    The least areas are multiples of the chosen one; of the median true area over 8 where there is none.
    """
    return [_landscape(statistics, decision, k) for k in range(statistics.num_classes)]


def _landscape(statistics: EvaluationStatistics, decision: Decision, k: int) -> Landscape:
    chosen = decision.classes[k]
    thresholds = tuple(sorted({*PIXEL_THRESHOLDS, chosen.pixel_threshold}))
    unit = chosen.min_area or _eighth_of_median(statistics.true_areas[:, k])
    minima = tuple(sorted({chosen.min_area, *(round(unit * factor) for factor in AREA_FACTORS)}))
    label_probs = statistics.label_probs[:, [0, 1 + k]]
    table = np.zeros((len(minima), len(thresholds)))
    for j, threshold in enumerate(thresholds):
        counts = counts_from(statistics.histograms[:, k : k + 1], np.array([threshold]))
        scores = dice(counts)
        if_dropped = dice(counts * (0, 0, 1))
        for i, least in enumerate(minima):
            most = None if chosen.max_area is None else max(chosen.max_area, least)
            one = replace(chosen, pixel_threshold=threshold, min_area=least, max_area=most)
            keeps = kept(replace(decision, classes=(one,)), counts[..., PREDICTED], label_probs)
            table[i, j] = np.where(keeps, scores, if_dropped).mean()
    return Landscape(thresholds, minima, table)


def _eighth_of_median(areas: np.ndarray) -> int:
    return int(np.median(areas[areas > 0]) / 8) if (areas > 0).any() else 0
