"""A calibration in plain words."""

from collections.abc import Mapping, Sequence

from steel.evaluation.decision import CLASS_GATES, ClassDecision, Decision, default_decision
from steel.evaluation.scores import decide, score
from steel.evaluation.statistics import EvaluationStatistics

FEW_IMAGES = 20
"""Below so many images of a class its settings are called weakly founded."""


def explain(
    decision: Decision, objectives: Mapping[str, float], statistics: EvaluationStatistics, class_names: Sequence[str]
) -> tuple[str, ...]:
    """One line on the gain, one on the gate and one a class.

    Args:
        decision: as calibrated.
        objectives: the best score of each gate that was tried, averaged over adjacent settings.
        statistics: of the images it was calibrated on.
        class_names: of the decision's classes.
    """
    after = score(decide(statistics, decision))
    before = score(decide(statistics, default_decision(statistics.num_classes)))
    num_images, num_true = len(statistics), (statistics.true_areas > 0).sum(axis=0)
    lines = [
        f"calibrated on {num_images:,} images: mean Dice {before.mean_dice:.4f} with every threshold at one half, "
        f"now {after.mean_dice:.4f}; answering nothing gets {after.mean_dice_all_empty:.4f}",
        f"gate {decision.gate}: {_gate_words(decision)}{_comparison(objectives)}",
    ]
    for k, (name, chosen) in enumerate(zip(class_names, decision.classes, strict=True)):
        if num_true[k] == 0:
            lines.append(f"{name}: no image here has it, so it keeps a threshold of one half and no limits")
            continue
        floor = 1 - num_true[k] / num_images
        line = (
            f"{name}: {_class_words(chosen, decision.gate)}; Dice {before.dice_per_class[k]:.4f} -> "
            f"{after.dice_per_class[k]:.4f}, the floor is {floor:.4f} ({num_true[k]:,} images have it)"
        )
        lines.append(line + (": few, so this rests on little" if num_true[k] < FEW_IMAGES else ""))
    return tuple(lines)


def _gate_words(decision: Decision) -> str:
    defective = f"images with P(any defect) of at least {_prob(decision.binary_threshold)}"
    return {
        "none": "the segmentation alone decides",
        "binary": f"only {defective} are answered",
        "class": "only classes that the classification head sees are answered",
        "binary+class": f"only {defective}, and in them only classes that the classification head sees, are answered",
        "soft": "the surer the classification head is of a class, the less area it needs",
    }[decision.gate]


def _comparison(objectives: Mapping[str, float]) -> str:
    if len(objectives) < 2:
        return ""
    scores = ", ".join(f"{gate} {value:.4f}" for gate, value in objectives.items())
    return f" (averaged over adjacent settings: {scores})"


def _class_words(chosen: ClassDecision, gate: str) -> str:
    parts = [f"pixels from {_prob(chosen.pixel_threshold)}"]
    if gate in CLASS_GATES:
        parts.append(f"P(class) from {_prob(chosen.label_threshold)}")
    if chosen.min_area:
        parts.append(f"at least {chosen.min_area:,} px" + (" at P(class) = 0.5" if gate == "soft" else ""))
    if chosen.max_area is not None:
        parts.append(f"at most {chosen.max_area:,} px")
    return ", ".join(parts)


def _prob(quantised: int) -> str:
    return f"{quantised / 255:.2f}"
