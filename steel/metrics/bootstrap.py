"""Bootstrap intervals: how far a score would move if other images of the same kind had been drawn."""

from collections.abc import Callable, Iterator

import numpy as np

from steel.metrics.scores import Outcome, Scores, ScoreSums, ratios, score_sums

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 64
"""Bounds the memory: 12,568 images x 64 resamples x 8 bytes = 6.4 MB."""


def resampled_sums(sums: ScoreSums, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> ScoreSums:
    """Sums over `num_resamples` draws of N images from N with replacement.

    The draws depend on N, `num_resamples` and `seed` only: two outcomes on the same images are resampled alike, so
    their differences are paired.

    Args:
        sums: of single images, leading shape (N,).

    Returns:
        Leading shape (R,).
    """
    table = sums.table()  # one product for all sums: of thin ones each costs as much
    weights = resample_weights(len(table), num_resamples, seed)
    return sums.with_table(np.concatenate([some @ table for some in weights]))


def resample_weights(num_images: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Parts of an (R, N) float64 array: how often each resample holds each image."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        num = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        drawn = rng.integers(num_images, size=(num, num_images))
        drawn += np.arange(num)[:, None] * num_images
        yield np.bincount(drawn.ravel(), minlength=num * num_images).reshape(num, num_images).astype(np.float64)


Interval = tuple[float, float]


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval | None:
    """The middle share of resampled values (R,); None when some resample has no value (no positive image, say)."""
    if not len(values) or np.isnan(values).any():
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(
    outcome: Outcome,
    measure: Callable[[Scores], np.ndarray],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """95 % interval of one score over images: `bootstrap(outcome, lambda s: s.mean_dice)`."""
    sums = resampled_sums(score_sums(outcome), num_resamples=num_resamples, seed=seed)
    return interval(measure(ratios(sums)))


def bootstrap_difference(
    outcome: Outcome,
    reference: Outcome,
    measure: Callable[[Scores], np.ndarray],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """95 % interval of how much better `outcome` scores than `reference`, both resampled alike (paired)."""
    assert np.array_equal(outcome.rows, reference.rows), "a paired difference needs the same images"
    first, second = (
        measure(ratios(resampled_sums(score_sums(o), num_resamples=num_resamples, seed=seed)))
        for o in (outcome, reference)
    )
    return interval(first - second)
