"""What a run did, in plain words: balance of the data, early stopping, which weights were shipped, how they decide."""

from collections.abc import Mapping, Sequence

import numpy as np

from steel.config import SamplingConfig
from train.engine.batch_plan import PhasePlan
from train.engine.validation import Judge, ValidationResult


def summarise_run(
    judge: Judge, plans: Sequence[PhasePlan], candidates: Mapping[str, float], chosen: str, result: ValidationResult
) -> list[str]:
    """One sentence a line."""
    names = judge.reader.manifest.class_names
    areas = judge.reader.index.areas[judge.rows.train]
    lines = [explain_balance(areas, names)]
    lines += [f"phase {plan.phase.name}: {explain_sampling(plan.phase.sampling)}" for plan in plans]
    lines += judge.progress.stopped_early or ["no phase stopped early"]
    progress = judge.progress
    if progress.nonfinite_steps:
        lines.append(f"{progress.nonfinite_steps} steps were skipped for a non-finite loss or gradient")
    if progress.bad_samples:
        lines.append(f"{progress.bad_samples} damaged samples were left out; `python -m data_prep.verify` names them")
    others = ", ".join(f"{name} {score:.4f}" for name, score in candidates.items() if name != chosen)
    lines.append(
        f"shipped: {chosen}, cross-fitted mean Dice {candidates[chosen]:.4f} on the validation folds"
        + (f" (against {others})" if others else "")
    )
    lines += result.tuning.explanation
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
