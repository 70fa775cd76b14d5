"""What a plant asks first: of the defective strips, how many are found; of the clean ones, how many are stopped?

A strip is one image. For `any`, a strip is defective when it has any defect, and stopped when any is predicted; for a
class, the same with that class alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from steel.labels.classes import ANY
from steel.metrics.bootstrap import FEWEST_IMAGES, Interval, worth_of_few
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
    """95 % interval of the share of strips that are stopped: Wilson's, of as many strips as they are worth.

    Where some are of one group, strips are not as many pieces of evidence. Where nearly all go one way it hardly shows
    how far those of a group go together: the interval reaches at least as far as that of no strip, and of every strip,
    in as many as there are groups. That one is stopped thus never makes it surer that few are.

    Args:
        said: (n,) bool, whether each strip is stopped.
        groups: (n,) as in `Outcome`.

    Returns:
        None of no strip, and of strips that share fewer than `FEWEST_IMAGES` groups.
    """
    num_stopped, num_strips = int(said.sum()), len(said)
    num_groups = num_strips if groups is None else len(np.unique(groups))
    if groups is None or num_groups == num_strips:
        return wilson_interval(num_stopped, num_strips)
    if num_groups < FEWEST_IMAGES:
        return None
    worth = _worth(said, groups)
    spans = [wilson_interval(*of) for of in ((worth * said.mean(), worth), (0, num_groups), (num_groups, num_groups))]
    (low, high), (_, high_of_none), (low_of_all, _) = (span for span in spans if span is not None)
    return min(low, low_of_all), max(high, high_of_none)


def _worth(said: np.ndarray, groups: np.ndarray) -> float:
    """Strips, each of its own group, whose share would spread as that of these does: n over the design effect.

    The share is a ratio of sums over groups, whose variance is the linearised one. See Kish, 1965; of few groups Korn
    and Graubard, 1998.
    """
    num_strips, share = len(said), said.mean()
    beyond = np.bincount(np.unique(groups, return_inverse=True)[1], weights=said - share)
    num_groups = len(beyond)
    variance = num_groups / (num_groups - 1) * np.sum(beyond**2) / num_strips**2 / worth_of_few(num_groups)
    return float(share * (1 - share) / variance) if variance * num_strips > share * (1 - share) else num_strips


def _curve(probs: np.ndarray, true: np.ndarray) -> dict[str, list[int]]:
    curve = threshold_curve(level_counts(probs, true))
    return {"found": curve.found[:NUM_BINS].tolist(), "stopped": curve.false[:NUM_BINS].tolist()}
