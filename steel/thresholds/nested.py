"""Nested scores of a cross-validation: each fold judged by thresholds found on the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steel.decision import Decision
from steel.errors import InputError
from steel.metrics.scores import Outcome, decide
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.search_space import SearchSpace
from steel.thresholds.tuning import tune_thresholds


@dataclass(frozen=True, eq=False)
class Nested:
    """Out-of-fold answers to every image, by thresholds in which it had no say; in the weights of the member that
    answers, which were chosen by its score on this fold, the image had one."""

    outcome: Outcome
    """Of all images; no background counts."""
    decisions: dict[int, Decision]
    """For each fold, the one found on all others."""


def nested_outcome(
    statistics: EvaluationStatistics,
    folds: np.ndarray,
    *,
    gates: Sequence[str] | None = None,
    tta: tuple[str, ...] = (),
    space: SearchSpace | None = None,
) -> Nested:
    """Answer each fold with the decision tuned on the other folds.

    Args:
        statistics: out-of-fold: each image seen by the member that was not trained on it.
        folds: (N,) the fold of each image of `statistics`.
        gates: as in `tune_thresholds`.
        tta: as there.
        space: as there.

    Raises:
        InputError: fewer than two folds.
    """
    assert folds.shape == statistics.rows.shape, (folds.shape, statistics.rows.shape)
    names = [int(fold) for fold in np.unique(folds)]
    if len(names) < 2:
        raise InputError(f"nested scores need at least two folds, here are {len(names)}; evaluate more of them")
    decisions, outcomes = {}, []
    for fold in names:
        mine = folds == fold
        others = statistics.select(~mine)
        found = tune_thresholds(others, gates=gates, tta=tta, space=space)
        decisions[fold] = found.decision
        outcomes.append(decide(statistics.select(mine), found.decision))
    return Nested(Outcome.concat(outcomes), decisions)
