"""Bootstrap intervals: how far a score would move if other images of the same kind had been drawn."""

from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri, stdtrit

from steel.metrics.scores import Outcome, ScoreSums, ratios, score_sums, telling

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000
FEWEST_IMAGES = 6
"""Or groups of them, that can show a difference: of fewer all go the same way by chance more often than once in twenty
(2 / 2 ** 5)."""
_MOST_WITHOUT_VALUE = 0.01
"""Share of resamples that may have no value. Of six images with a class among many, one in 400 (e ** -6) has none of
them: not enough to matter at the ends of an interval. Of three, one in twenty."""
_RESAMPLES_AT_ONCE = 64
"""Bounds the memory: 12,568 images x 64 resamples x 8 bytes = 6.4 MB."""


def resampled_sums(
    sums: ScoreSums, groups: np.ndarray | None = None, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> ScoreSums:
    """Sums over `num_resamples` draws of images with replacement, or of whole groups of them; see `resample_weights`.

    The draws depend on N, the groups, `num_resamples` and `seed` only: two outcomes on the same images are resampled
    alike, so their differences are paired.

    Args:
        sums: of single images, leading shape (N,).
        groups: (N,) as in `EvaluationStatistics`.

    Returns:
        Leading shape (R,).
    """
    table = sums.table()  # one product for all sums: of thin ones each costs as much
    weights = resample_weights(len(table), num_resamples, seed, groups)
    return sums.with_table(np.concatenate([some @ table for some in weights]))


def resample_weights(
    num_images: int, num_resamples: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Parts of an (R, N) float64 array: how often each resample holds each image.

    The images of a group are drawn together: they look alike, so that other images would be other groups. Fewer are
    drawn than there are, groups or single images, so that the interval is as wide as Student's t asks: the spread of a
    few is itself uncertain, and smaller than that of all; of 100 it is 97. Of fewer than `FEWEST_IMAGES` none is drawn.
    """
    rng = np.random.default_rng(seed)
    group_of = np.arange(num_images) if groups is None else np.unique(groups, return_inverse=True)[1]
    num_groups = int(group_of.max(initial=-1)) + 1
    num_drawn = _num_drawn(num_groups)
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        num = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        drawn = rng.integers(num_groups, size=(num, num_drawn))
        drawn += np.arange(num)[:, None] * num_groups
        times = np.bincount(drawn.ravel(), minlength=num * num_groups).reshape(num, num_groups)
        yield (times if num_groups == num_images else times[:, group_of]).astype(np.float64)


def _num_drawn(num_groups: int) -> int:
    """Groups, n, of which the mean spreads as the interval of a mean by Student's t is wide: with the variance of those
    at hand, 1 / n against t^2 / (z^2 (num_groups - 1)). See Rao and Wu, 1988, on rescaling bootstraps."""
    if num_groups < FEWEST_IMAGES:
        return 0
    return round((num_groups - 1) * worth_of_few(num_groups))


def worth_of_few(num_groups: int) -> float:
    """z^2 / t^2: what groups whose variance is only estimated from them count for, beside as many of known variance."""
    tail = (1 + CONFIDENCE) / 2
    return float(ndtri(tail) / stdtrit(num_groups - 1, tail)) ** 2


Interval = tuple[float, float]

TOO_FEW = "too few to tell"
"""What is said of a difference without an interval: it was not judged."""


def told_by(span: Interval | None, *, more_is_better: bool = True) -> str:
    """What an interval of a difference says: `better`, `worse` or `within the noise`; `TOO_FEW` where there is none."""
    if span is None:
        return TOO_FEW
    if span[0] <= 0 <= span[1]:
        return "within the noise"
    return "better" if (span[0] > 0) == more_is_better else "worse"


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Interval | None:
    """The middle share of resampled values (R,), of those that have one (NaN: no positive image, say); None where more
    than `_MOST_WITHOUT_VALUE` have none."""
    known = values[~np.isnan(values)]
    if not len(known) or len(values) - len(known) > _MOST_WITHOUT_VALUE * len(values):
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap(outcome: Outcome, name: str, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Interval | None:
    """95 % interval of one score, by its name in `Scores`, over the images that tell of it (see `telling`)."""
    return interval(_resampled(outcome.select(telling(name, outcome)), name, num_resamples, seed))


def bootstrap_difference(
    outcome: Outcome, reference: Outcome, name: str, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Interval | None:
    """95 % interval of how much better `outcome` scores than `reference`, both resampled alike (paired)."""
    assert np.array_equal(outcome.rows, reference.rows), "a paired difference needs the same images"
    told = telling(name, outcome, reference)
    first, second = (_resampled(of.select(told), name, num_resamples, seed) for of in (outcome, reference))
    return interval(first - second)


def _resampled(outcome: Outcome, name: str, num_resamples: int, seed: int) -> np.ndarray:
    sums = resampled_sums(score_sums(outcome), outcome.groups, num_resamples=num_resamples, seed=seed)
    return getattr(ratios(sums), name)
