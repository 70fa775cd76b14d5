"""Statistics of a simulated network on simulated images: as many of them, and as hard, as a question needs.

Of each image only what `steel.evaluation` keeps is made: per class a histogram of quantised probabilities inside and
outside the truth, and the head's probabilities. Areas are log-normal; the logits of a defect's pixels are normal about
a mean that varies from image to image, so do those of its fringe and of false alarms in images without the class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from steel.metrics.statistics import EvaluationStatistics

NUM_PIXELS = 256 * 1600
MEDIAN_AREAS = (3000, 3000, 12000, 25000)
"""Pixels, about Severstal's."""
_EDGES = np.log((np.arange(1, 256) - 0.5) / (255.5 - np.arange(1, 256)))
"""Logits between the 256 quantised probabilities."""


@dataclass(frozen=True)
class Network:
    """What a simulated network is like."""

    found: float = 1.5
    """Mean logit of a defect's pixels, over images."""
    found_spread: float = 1.0
    """Standard deviation of an image's mean logit."""
    fringe: float | None = None
    """Mean logit of the pixels around a defect; 2 below the defect's own when None."""
    fringe_share: float = 0.3
    """Their number, as a share of the defect's."""
    alarms: float = 0.1
    """Share of the images without a class that have a false alarm of it."""
    alarm: float = 0.0
    """Mean logit of an alarm's pixels."""
    alarm_area: float = 0.5
    """Median area of an alarm, as a share of a defect's."""
    head: float = 1.5
    """Mean logit of the head for images with a class; its negative for those without. 0: the head knows nothing."""


def simulate(
    rng: np.random.Generator, network: Network, num_images: int, positives: Sequence[int]
) -> EvaluationStatistics:
    """The statistics of some images.

    Args:
        rng: source of all that is random.
        network: what it is like.
        num_images: N.
        positives: how many images have each class; at most four classes.
    """
    present = np.zeros((num_images, len(positives)), bool)
    counts = np.zeros((num_images, len(positives), 2, 256))
    label_logits = rng.normal(size=(num_images, 1 + len(positives)))
    for k, num in enumerate(positives):
        has = rng.permutation(num_images) < num
        present[:, k] = has
        areas = np.minimum(50 + _log_normal(rng, MEDIAN_AREAS[k], num), NUM_PIXELS // 2)
        means = rng.normal(network.found, network.found_spread, num)
        counts[has, k, 1] = _histograms(areas, means)
        fringes = np.rint(areas * network.fringe_share * rng.uniform(0.3, 1.7, num))
        counts[has, k, 0] = _histograms(fringes, means - 2 if network.fringe is None else np.full(num, network.fringe))
        alarmed = ~has & (rng.random(num_images) < network.alarms)
        areas = 20 + _log_normal(rng, MEDIAN_AREAS[k] * network.alarm_area, int(alarmed.sum()))
        counts[alarmed, k, 0] = _histograms(
            np.minimum(areas, NUM_PIXELS // 3), rng.normal(network.alarm, 1, len(areas))
        )
        counts[:, k, 0, 0] += NUM_PIXELS - counts[:, k].sum(axis=(1, 2))
        label_logits[:, 1 + k] += network.head * np.where(has, 1, -1)
    label_logits[:, 0] += network.head * np.where(present.any(axis=1), 1, -1)
    label_probs = np.rint(255 * expit(label_logits)).astype(np.uint8)
    return EvaluationStatistics(np.arange(num_images), counts.astype(np.uint32), label_probs)


def _log_normal(rng: np.random.Generator, median: float, num: int) -> np.ndarray:
    return np.rint(np.exp(rng.normal(np.log(median), 1, num)))


def _histograms(areas: np.ndarray, means: np.ndarray, spread: float = 1.5) -> np.ndarray:
    """(M, 256) whole counts of `areas` (M,) pixels whose logits are normal about `means` (M,)."""
    below = np.pad(ndtr((_EDGES - means[:, None]) / spread), ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    return np.diff(np.rint(below * areas[:, None]), axis=1)
