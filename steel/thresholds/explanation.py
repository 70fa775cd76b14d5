"""Threshold tuning in plain words."""

from collections.abc import Mapping, Sequence

import numpy as np

from steel.decision import ClassDecision, Decision, default_decision
from steel.errors import counted
from steel.gates import GATES
from steel.metrics.scores import Outcome, decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.thresholds.crossfit import Gain
from steel.thresholds.gate_search import Rung

FEW_IMAGES = 20
"""Below so many images of a class its settings are called weakly founded."""


def explain(
    statistics: EvaluationStatistics,
    class_names: Sequence[str],
    decision: Decision,
    cross_fitted: Outcome,
    gain: Gain,
    gate_gains: Mapping[str, Gain],
    missed: Mapping[str, Sequence[int]],
    rungs: Sequence[Sequence[Rung]],
    *,
    are_few: bool = False,
) -> tuple[str, ...]:
    """One line on the gain, one on the gate and one per class.

    Args:
        statistics: of the images it was tuned on.
        class_names: of the decision's classes.
        decision: as tuned.
        cross_fitted: the answers of what is tuned on other images.
        gain: of those over thresholds of one half.
        gate_gains: cross-fitted, of each gate over the simplest one.
        missed: the classes, from 0, that each gate hardly finds; see `GateFit.missed`.
        rungs: what each class tried under the decision's gate; nothing when thresholds of one half stay.
        are_few: they stay as the images are too few, or of too few groups.
    """
    half, tuned, honest = (
        score(outcome)
        for outcome in (
            decide(statistics, default_decision(statistics.num_classes)),
            decide(statistics, decision),
            cross_fitted,
        )
    )
    num_images, num_true = len(statistics), np.count_nonzero(statistics.true_areas, axis=0)
    gained = (
        f"now {tuned.mean_dice:.4f}, cross-fitted {honest.mean_dice:.4f} (a gain of {gain})"
        if rungs
        else f"and these stay: tuned ones get {honest.mean_dice:.4f} cross-fitted ({gain}), which "
        + ("so few cannot show to be better" if are_few else "may be noise")
        if num_true.any()
        else "and these stay: no image here has a defect to tune them on"
    )
    in_groups = f" in {counted(statistics.num_groups, 'group')}" if statistics.num_groups < num_images else ""
    lines = [
        f"tuned on {num_images:,} images{in_groups}: mean Dice {half.mean_dice:.4f} with every threshold at one half, "
        f"{gained}; answering nothing gets {half.mean_dice_all_empty:.4f}",
        f"gate {decision.gate}: {_gate_words(decision)}{_missed_words(missed.get(decision.gate, ()), class_names)}"
        f"{_comparison(gate_gains, missed, class_names)}",
    ]
    for k, (name, chosen) in enumerate(zip(class_names, decision.classes, strict=True)):
        if num_true[k] == 0:
            lines.append(f"{name}: no image here has it, so it keeps a threshold of one half and no limits")
            continue
        floor = 1 - num_true[k] / num_images
        have = "1 image has" if num_true[k] == 1 else f"{num_true[k]:,} images have"
        line = f"{name}: {_class_words(chosen, decision.gate)}; Dice {half.dice_per_class[k]:.4f}"
        if rungs:
            line += f" -> {tuned.dice_per_class[k]:.4f}, cross-fitted {honest.dice_per_class[k]:.4f}"
        line += f", the floor is {floor:.4f} ({have} it)"
        line += ": few, so this rests on little" if num_true[k] < FEW_IMAGES else ""
        lines.append(line + (_ladder_words(rungs[k], chosen) if rungs else ""))
    return tuple(lines)


def _gate_words(decision: Decision) -> str:
    return GATES[decision.gate].meaning.format(any=_prob(decision.binary_threshold))


def _missed_words(missed: Sequence[int], class_names: Sequence[str]) -> str:
    """Of the gate that is shipped: a user may have left out those that miss nothing."""
    if not missed:
        return ""
    listed = _listed(missed, class_names)
    return f"; it hardly finds {listed}, which thresholds of one half find; no gate that was tried finds more classes"


def _comparison(gains: Mapping[str, Gain], missed: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> str:
    if not gains:
        return ""
    told = [
        f"{gate} {gain}"
        + (f", hardly finding {_listed(missed[gate], class_names)}" if missed[gate] and gain.value > 0 else "")
        for gate, gain in gains.items()
    ]
    return f" (cross-fitted gains over the simplest: {'; '.join(told)})"


def _listed(classes: Sequence[int], class_names: Sequence[str]) -> str:
    return " and ".join(class_names[k] for k in classes)


def _ladder_words(rungs: Sequence[Rung], chosen: ClassDecision) -> str:
    tried = [f"{rung.name} {rung.gain} {_fate(rung, chosen)}" for rung in rungs]
    return f"; cross-fitted: {', '.join(tried)}" if tried else ""


def _fate(rung: Rung, chosen: ClassDecision) -> str:
    """What became of a family. One that is taken allows a limit; the settings that are best on all images may have none
    nevertheless, though those that were best without some fold, which gained, had one."""
    if not rung.is_taken:
        return "left out"
    has_limit = {"minimum area": chosen.min_area > 0, "maximum area": chosen.max_area is not None}
    if not has_limit.get(rung.name, True):
        return "allowed, but on all images none is better"
    return "taken all the same (the class is hardly found without)" if rung.is_needed else "taken"


def _class_words(chosen: ClassDecision, gate: str) -> str:
    parts = [f"pixels from {_prob(chosen.pixel_threshold)}"]
    if GATES[gate].asks_class:
        parts.append(f"P(class) from {_prob(chosen.label_threshold)}")
    if chosen.min_area:
        parts.append(f"at least {chosen.min_area:,} px")
    if chosen.max_area is not None:
        parts.append(f"at most {chosen.max_area:,} px")
    return ", ".join(parts)


def _prob(quantised: int) -> str:
    return f"{quantised / 255:.2f}"
