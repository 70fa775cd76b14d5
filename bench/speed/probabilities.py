"""What evaluation keeps of an image's probabilities, and the usual ways to count them; tasks of our side."""

import time
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from bench.speed.strings import HEIGHT, WIDTH
from bench.speed.timing import Measure, time_passes
from steel.loading.eval_loader import fill_targets
from steel.metrics.counts import NUM_BINS, histograms
from steel.metrics.statistics import ImageStatistics, counted_statistics, image_statistics

NUM_CLASSES, NUM_IMAGES = 4, 24
BATCH = 5
"""Images of a forward pass on a GPU."""
BIAS = {"sure": -12.0, "unsure": -9.0, "untrained": -5.0}
"""Mean logit away from defects. Pixels above a probability of half a percent: 1, 14 and 70 of 100."""


@cache
def _images(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Probabilities (C, H, W) uint8 and truth (H, W) uint8; every other image has one class."""
    made = []
    for number in range(NUM_IMAGES):
        rng = np.random.default_rng(number)
        planes = []
        for _ in range(NUM_CLASSES):
            blobs = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), 20)
            noise = 0.3 * rng.normal(size=blobs.shape)
            planes.append(BIAS[kind] + 2.5 * blobs / blobs.std() + noise)
        truth = (planes[2] > BIAS[kind] + 3.5).astype(np.uint8) << 2
        truth *= number % 2
        made.append(((255 / (1 + np.exp(-np.stack(planes)))).round().astype(np.uint8), truth))
    return made


def statistics(kind: str, seconds: float) -> Measure:
    """As evaluation does."""
    labels = np.zeros(1 + NUM_CLASSES, np.uint8)
    return _time(kind, seconds, lambda probs, truth: image_statistics(0, probs, labels, truth))


def statistics_device(kind: str, seconds: float) -> Measure:
    """As evaluation does on a GPU, if there is one: the truth goes where the probabilities are, counts come back."""
    import torch

    from steel.inference.device_counts import histograms_on_device

    device, images = torch.device("cuda" if torch.cuda.is_available() else "cpu"), _images(kind)
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    there = [torch.from_numpy(np.stack([probs for probs, _ in batch])).to(device) for batch in batches]

    def count() -> int:
        counted = 0
        for batch, probs in zip(batches, there, strict=True):
            truths = [truth for _, truth in batch]
            targets = np.empty((len(batch), *truths[0].shape), np.uint8)
            fill_targets(targets, truths, NUM_CLASSES, None)
            counted += len(histograms_on_device(probs, torch.from_numpy(targets).to(device)).cpu().numpy())
        return counted

    count()  # kernels and memory
    items, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds or not items:
        items += count()
    return Measure(items, spent)


def statistics_host(kind: str, seconds: float) -> Measure:
    """What is left to the CPU where a GPU counts: a loader process lays out the truth, a thread takes the counts."""
    labels, made = np.zeros(1 + NUM_CLASSES, np.uint8), []
    for probs, truth in _images(kind):
        made.append((truth, histograms(probs, truth, NUM_CLASSES).astype(np.int32)))
    targets = np.empty((1, HEIGHT, WIDTH), np.uint8)

    def count(truth: np.ndarray, counts: np.ndarray) -> ImageStatistics:
        fill_targets(targets, [truth], NUM_CLASSES, None)
        return counted_statistics(0, counts.astype(np.uint32), labels, None, None)

    return time_passes(lambda: (count(*image) for image in made), seconds=seconds)


def statistics_masked(kind: str, seconds: float) -> Measure:
    """OpenCV's histogram of all pixels, and of those of the class."""

    def count(probs: np.ndarray, truth: np.ndarray) -> None:
        for k, plane in enumerate(probs):
            inside = ((truth >> k) & 1).astype(np.uint8)
            for mask in (None, inside):
                cv2.calcHist([plane], [0], mask, [NUM_BINS], [0, NUM_BINS])

    return _time(kind, seconds, count)


def statistics_bincount(kind: str, seconds: float) -> Measure:
    """numpy's counts of probability and truth together."""

    def count(probs: np.ndarray, truth: np.ndarray) -> None:
        for k, plane in enumerate(probs):
            np.bincount((plane + NUM_BINS * ((truth >> k) & 1).astype(np.int64)).ravel(), minlength=2 * NUM_BINS)

    return _time(kind, seconds, count)


def _time(kind: str, seconds: float, count: Callable[[np.ndarray, np.ndarray], object]) -> Measure:
    return time_passes(lambda: (count(*image) for image in _images(kind)), seconds=seconds)
