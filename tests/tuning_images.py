"""Images for tests of threshold tuning: small ones of noise and defects, and ones whose best thresholds are known."""

import itertools

import numpy as np

from steel.decision import Decision, apply_decision
from steel.metrics.counts import dice
from steel.metrics.statistics import EvaluationStatistics, image_statistics
from steel.thresholds.search_space import SearchSpace
from tests.plain_counts import pair_counts

NUM_CLASSES = 2
SPACE = SearchSpace(pixel_thresholds=(60, 100, 128, 190), label_thresholds=(50, 128, 180), area_steps=3)


class Images:
    """A few small images with probabilities that tell something of the truth, and some false alarms."""

    def __init__(self, seed: int, num: int = 14) -> None:
        rng = np.random.default_rng(seed)
        shape = (num, NUM_CLASSES, 8, 10)
        truth = np.zeros(shape, bool)
        for i, k in itertools.product(range(num), range(NUM_CLASSES)):
            if rng.random() < 0.5:
                y, x, h, w = rng.integers([0, 0, 2, 2], [6, 7, 6, 7])
                truth[i, k, y : y + h, x : x + w] = True
        present = truth.any(axis=(2, 3))
        strength = np.where(present, rng.uniform(40, 200, present.shape), rng.uniform(0, 120, present.shape))
        noise = rng.normal(40, 35, shape)
        alarms = rng.random(shape) < rng.uniform(0, 0.3, present.shape)[..., None, None]
        self.mask_probs = np.clip(noise + strength[..., None, None] * (truth | alarms), 0, 255).astype(np.uint8)
        any_and_each = np.concatenate([present.any(axis=1, keepdims=True), present], axis=1)
        self.label_probs = np.clip(rng.normal(70, 60, any_and_each.shape) + 110 * any_and_each, 0, 255).astype(np.uint8)
        self.bitmasks = (truth[:, 0] + 2 * truth[:, 1]).astype(np.uint8)

    def statistics(self) -> EvaluationStatistics:
        parts = zip(self.mask_probs, self.label_probs, self.bitmasks, strict=True)
        return EvaluationStatistics.from_images(
            (image_statistics(i, *part) for i, part in enumerate(parts)), NUM_CLASSES
        )

    def mean_dice(self, decision: Decision, some: np.ndarray | None = None) -> float:
        """Kaggle's score of all images or some, from the pixels."""
        pairs = [
            dice(pair_counts(apply_decision(decision, self.mask_probs[i], self.label_probs[i]), self.bitmasks[i]))
            for i in (range(len(self.bitmasks)) if some is None else some)
        ]
        return float(np.mean(pairs))


def constant_statistics(mask_prob: int, label_prob: int, *, num: int = 20, area: int = 50) -> EvaluationStatistics:
    """Images of one class: half have `area` true pixels, predicted perfectly with `mask_prob`; the others are clean."""
    histograms = np.zeros((num, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 100
    histograms[::2, 0, 1, mask_prob] = area
    label_probs = np.zeros((num, 2), np.uint8)
    label_probs[::2] = label_prob
    return EvaluationStatistics(np.arange(num), histograms, label_probs)


def rarely_seen(num_clean: int, alarms: int, *, label_prob: int = 0) -> EvaluationStatistics:
    """Clean images, of which some have an alarm of 40 pixels at 180; and two of 400 pixels of a defect, of which 60 are
    seen: at 150 in one, and at 200 in the other. The head calls none of them defective."""
    histograms = np.zeros((num_clean + 2, 1, 2, 256), np.uint32)
    histograms[:, 0, 0, 0] = 1000
    histograms[:alarms, 0, 0, 180] = 40
    histograms[-2:, 0, 1, 0] = 340
    histograms[-2, 0, 1, 150], histograms[-1, 0, 1, 200] = 60, 60
    label_probs = np.zeros((num_clean + 2, 2), np.uint8)
    label_probs[-2:] = label_prob
    return EvaluationStatistics(np.arange(num_clean + 2), histograms, label_probs)
