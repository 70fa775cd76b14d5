"""What a run did, in plain words: balance of the data, early stopping, which weights were shipped, how they decide."""

from collections.abc import Mapping, Sequence

import numpy as np

from steel.config import SamplingConfig
from steel.thresholds.tuning import Tuning
from train.engine.loop_state import LoopState
from train.engine.run_context import RunContext


def summarise_run(
    context: RunContext, state: LoopState, scores: Mapping[str, float], chosen: str, tuning: Tuning
) -> list[str]:
    """One sentence a line.

    Args:
        context: of the run.
        state: at its end.
        scores: cross-fitted mean Dice of all weights that might have been shipped, by name.
        chosen: the name of those that were.
        tuning: how their decision was found.
    """
    areas = context.reader.index.areas[context.rows.train]
    lines = [explain_balance(areas, context.reader.manifest.class_names)]
    lines += [f"phase {plan.phase.name}: {explain_sampling(plan.phase.sampling)}" for plan in context.plans]
    lines += state.stopped_early or ["no phase stopped early"]
    if state.nonfinite_steps:
        lines.append(f"{state.nonfinite_steps} steps were skipped for a non-finite loss or gradient")
    if state.bad_samples:
        lines.append(f"{state.bad_samples} damaged samples were left out; `python -m data_prep.verify` names them")
    others = ", ".join(f"{name} {score:.4f}" for name, score in scores.items() if name != chosen)
    lines.append(
        f"shipped: {chosen}, cross-fitted mean Dice {scores[chosen]:.4f} on the validation folds"
        + (f" (against {others})" if others else "")
    )
    lines += tuning.explanation
    lines += [f"auto: {option}: {reason}" for option, reason in context.config.reasons.items()]
    return lines


def explain_balance(areas: np.ndarray, names: Sequence[str]) -> str:
    """How often each class occurs in (n, C) training areas."""
    present = areas > 0
    counts = present.sum(0)
    clean = int((~present.any(1)).sum())
    classes = ", ".join(f"{name} in {count:,}" for name, count in zip(names, counts, strict=True))
    line = f"trained on {len(areas):,} images: {clean:,} clean, {classes}"
    if counts.min() > 0 and counts.max() >= 5 * counts.min():
        rare, common = names[int(counts.argmin())], names[int(counts.argmax())]
        line += f"; {common} is {counts.max() / counts.min():.0f} times as frequent as {rare}"
    absent = [name for name, count in zip(names, counts, strict=True) if count == 0]
    return line + (f"; no training image has {', '.join(absent)}" if absent else "")


def explain_sampling(sampling: SamplingConfig) -> str:
    """Which images a phase drew, and how it cropped them."""
    which = {
        "natural": "every image once an epoch",
        "balanced": "clean images and each class in equal shares",
    }[sampling.order]
    if sampling.defective_only:
        which += ", defective images only"
    if sampling.defect_crop > 0:
        which += f"; {sampling.defect_crop:.0%} of the crops of defective images were moved onto a defect"
    return which
