"""An ensemble's members beside it: what the average gains over each, paired by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steel.metrics.bootstrap import bootstrap_difference, told_by
from steel.metrics.scores import Outcome, score
from steel.metrics.statistics import EvaluationStatistics
from steel.metrics.table import MetricInputs, compute, plain_number
from steel.reports.evaluated import short_names

_SCORES = ("mean_dice", "mean_dice_positive", "dice_positive_per_class", "intervals", "cross_entropy")
_GAINS = ("mean_dice", "mean_dice_positive")


@dataclass(frozen=True, eq=False)
class Judged:
    """What the evaluated images say of one network, or of the ensemble."""

    name: str
    statistics: EvaluationStatistics
    outcome: Outcome
    """Under the decision that answers for it."""
    role: str = ""
    """What the folds were to it; see `steel.reports.evaluation.ROLES`."""
    has_decision: bool = True
    """Whether that decision was found for it, and is not the ensemble's."""
    tta: tuple[str, ...] = ()
    """The flips averaged."""


def member_metrics(ensemble: Judged, members: Sequence[Judged], class_names: Sequence[str]) -> dict[str, Any]:
    """`ensemble` of `metrics.json`: its scores, those of each member, and the differences; plain JSON values.

    Args:
        ensemble: the average.
        members: of it, judged on the same images.
        class_names: C names.
    """
    names = short_names([member.name for member in members])
    lines = [
        {"name": name, "role": member.role, "has_decision": member.has_decision}
        | _scores(member, class_names)
        | {"gain": {name: _gain(ensemble.outcome, member.outcome, name) for name in _GAINS}}
        for name, member in zip(names, members, strict=True)
    ]
    untuned = "" if ensemble.has_decision else "; it has no decision of its own yet: --tune-thresholds finds one"
    return _scores(ensemble, class_names) | {"members": lines, "sentence": _sentence(lines) + untuned}


def _scores(judged: Judged, class_names: Sequence[str]) -> dict[str, Any]:
    return compute(MetricInputs(judged.outcome, judged.statistics, class_names), _SCORES) | {"tta": list(judged.tta)}


def _gain(ensemble: Outcome, member: Outcome, name: str) -> dict[str, Any]:
    """How much more the ensemble scores, with the paired interval; None where there is nothing to score."""
    span = bootstrap_difference(ensemble, member, name)
    return {
        "difference": plain_number(getattr(score(ensemble), name) - getattr(score(member), name)),
        "interval": None if span is None else list(span),
        "so": told_by(span),
    }


def _sentence(members: Sequence[Mapping[str, Any]]) -> str:
    """What the average gains, in words."""
    better, worse = (sum(m["gain"]["mean_dice"]["so"] == so for m in members) for so in ("better", "worse"))
    best = max(members, key=lambda member: member["mean_dice"])
    gain = best["gain"]["mean_dice"]
    span = gain["interval"]
    spread = "" if span is None else f" (95 %: {span[0]:+.4f} to {span[1]:+.4f})"
    harm = f", worse than {worse}" if worse else ""
    return (
        f"the ensemble is better than {better} of its {len(members)} members beyond the noise{harm}; over the best of "
        f"them, {best['name']}, it gains {gain['difference']:+.4f} of mean Dice{spread}"
    )
