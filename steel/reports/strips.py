"""What a plant asks first: of the defective strips, how many are found; of the clean ones, how many are stopped?

A strip is one image. For `any`, a strip is defective when it has any defect, and stopped when any is predicted; for a
class, the same with that class alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from steel.labels.classes import ANY
from steel.metrics.bootstrap import FEWEST_IMAGES, NUM_RESAMPLES, Interval, interval, resample_weights
from steel.metrics.counts import NUM_BINS, PREDICTED
from steel.metrics.curves import level_counts, threshold_curve, wilson_interval
from steel.metrics.scores import Outcome
from steel.reports.plain_values import plain


def count_strips(outcome: Outcome, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Found, missed, stopped and passed strips as decided, with shares and their 95 % intervals."""
    true, said = outcome.true_labels, _stopped(outcome)
    return {name: _counts(true[:, i], said[:, i], outcome.groups) for i, name in enumerate((ANY, *class_names))}


def operating_curves(
    outcome: Outcome, label_probs: np.ndarray, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The counts that other image-level thresholds would give.

    Args:
        outcome: as decided.
        label_probs: (N, 1 + C) uint8.
        class_names: C names.

    Returns:
        For `any` and each class, `found` and `stopped` strips from threshold 0, 1, ..., 255 on, by two rules: `head`
        stops where the head's probability reaches the threshold, `head_and_mask` where a mask is predicted, too.
    """
    true, said = outcome.true_labels, _stopped(outcome)
    return {
        name: {
            "head": _curve(label_probs[:, i], true[:, i]),
            "head_and_mask": _curve(label_probs[said[:, i], i], true[said[:, i], i]),
        }
        for i, name in enumerate((ANY, *class_names))
    }


def _stopped(outcome: Outcome) -> np.ndarray:
    """(N, 1 + C) bool: whether any pixel is predicted, of any class and of each."""
    said = outcome.counts[..., PREDICTED] > 0
    return np.concatenate([said.any(axis=1, keepdims=True), said], axis=1)


def _counts(true: np.ndarray, said: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    defective, found = int(true.sum()), int((true & said).sum())
    clean, stopped = int((~true).sum()), int((~true & said).sum())
    found_interval, stopped_interval = (
        _share_interval(said[among], None if groups is None else groups[among]) for among in (true, ~true)
    )
    return {
        "defective": defective,
        "found": found,
        "missed": defective - found,
        "found_share": found / defective if defective else None,
        "found_interval": plain(found_interval),
        "clean": clean,
        "stopped": stopped,
        "passed": clean - stopped,
        "stopped_share": stopped / clean if clean else None,
        "stopped_interval": plain(stopped_interval),
    }


def _share_interval(said: np.ndarray, groups: np.ndarray | None) -> Interval | None:
    """95 % interval of the share of strips that are stopped.

    Wilson's, of the strips. Where some are of one group, strips are not as many pieces of evidence, and their groups
    are resampled. If all strips go one way, so does every resample: it is Wilson's again then, of the groups.

    Args:
        said: (n,) bool, whether each strip is stopped.
        groups: (n,) as in `Outcome`.

    Returns:
        None of no strip, and of strips that share fewer than `FEWEST_IMAGES` groups.
    """
    num_stopped, num_strips = int(said.sum()), len(said)
    num_groups = num_strips if groups is None else len(np.unique(groups))
    if num_groups == num_strips:
        return wilson_interval(num_stopped, num_strips)
    if num_groups < FEWEST_IMAGES:
        return None
    if num_stopped in (0, num_strips):
        return wilson_interval(num_groups if num_stopped else 0, num_groups)
    parts = np.stack([said, np.ones(num_strips)], axis=1)
    sums = np.concatenate([times @ parts for times in resample_weights(num_strips, NUM_RESAMPLES, 0, groups)])
    return interval(sums[:, 0] / sums[:, 1])


def _curve(probs: np.ndarray, true: np.ndarray) -> dict[str, list[int]]:
    curve = threshold_curve(level_counts(probs, true))
    return {"found": curve.found[:NUM_BINS].tolist(), "stopped": curve.false[:NUM_BINS].tolist()}
