"""What a run did, in plain words: balance of the data, early stopping, which weights were shipped, how they decide."""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import numpy as np

from steel.config import SamplingConfig
from steel.errors import counted, told_url
from steel.reports.tables import format_columns
from steel.thresholds.tuning import Tuning
from train.engine.compilation import CompileChoice
from train.engine.loop_state import LoopState
from train.engine.run_context import RunContext
from train.engine.run_folder import RunFolder
from train.live_line import format_duration


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
    lines += explain_compilations([plan.phase.name for plan in context.plans], state.compilations)
    lines += state.stopped_early or ["no phase stopped early"]
    lines += explain_skips(state)
    others = ", ".join(f"{name} {score:.4f}" for name, score in scores.items() if name != chosen)
    lines.append(
        f"shipped: {chosen}, cross-fitted mean Dice {scores[chosen]:.4f} on the validation folds"
        + (f" (against {others})" if others else "")
    )
    lines += tuning.explanation
    lines += [f"auto: {option}: {reason}" for option, reason in context.config.reasons.items()]
    return lines


def explain_compilations(phases: Sequence[str], choices: Sequence[CompileChoice]) -> list[str]:
    """A sentence for each phase, by name, whose step was compiled or tried so."""
    pairs = zip(phases, map(str, choices), strict=False)  # a run may end before its last phase
    return [f"phase {name}: {choice}" for name, choice in pairs if choice]


MOST_CLASSES = 5
"""So many classes stand in the summary of a run; its report has them all."""


def short_summary(
    context: RunContext, folder: RunFolder, metrics: Mapping[str, Any], shipped: str, seconds: float
) -> str:
    """The end of a run on the screen, in a dozen lines: verdict, classes, where the time went, where things are.

    Args:
        context: of the run.
        folder: of the run.
        metrics: of the validation folds, as `metrics.json`.
        shipped: one line on the weights that were chosen.
        seconds: that this attempt took.
    """
    names = sorted(metrics["dice_per_class"], key=lambda name: -metrics["true_images_per_class"][name])
    rows = [["class", "images true", "predicted", "Dice", "positive Dice"]]
    for name in names[:MOST_CLASSES]:
        positive = metrics["dice_positive_per_class"][name]
        rows.append(
            [
                name,
                f"{metrics['true_images_per_class'][name]:,}",
                f"{metrics['predicted_images_per_class'][name]:,}",
                f"{metrics['dice_per_class'][name]:.4f}",
                "-" if positive is None else f"{positive:.4f}",
            ]
        )
    spent = ", ".join(
        f"{kind} {format_duration(s)}"
        for kind, s in sorted(context.live.spent.items(), key=lambda item: -item[1])
        if s >= 1
    )
    lines = [metrics["verdict"]["sentence"], shipped, *format_columns(rows).splitlines()]
    if len(names) > MOST_CLASSES:
        lines.append(f"and {len(names) - MOST_CLASSES} rarer classes: see report.txt")
    lines.append(f"took {format_duration(seconds)}" + (f", of which {spent}" if spent else ""))
    lines.append(f"model    {folder.checkpoint}, with {folder.model_card.name}")
    lines.append(f"report   {folder.report}, with {folder.curves.name} and validation.json")
    if len(context.rows.test):
        folds = ",".join(map(str, context.config.folds.test))
        lines.append(
            f"next     python -m train.evaluate --checkpoint {quote(str(folder.checkpoint))} "
            f"--data {quote(told_url(context.reader.root))} --folds {folds} --out {quote(str(folder.root / 'test'))}"
        )
    return "\n".join(lines)


def explain_skips(state: LoopState) -> list[str]:
    """What was not learned from: a line for steps, one for samples, which are counted each time that they are drawn."""
    lines = []
    if state.nonfinite_steps:
        lines.append(f"{state.nonfinite_steps} steps were skipped for a non-finite loss or gradient")
    if state.bad_samples:
        drawn = counted(state.bad_samples, "time")
        lines.append(f"damaged samples were drawn {drawn} and left out; `python -m data_prep.verify` names them")
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
    kind = "defective image" if sampling.defective_only else "image"
    balanced = "each class" if sampling.defective_only else "clean images and each class"
    which = {"natural": f"every {kind} once an epoch", "balanced": f"{balanced} in equal shares"}[sampling.order]
    if sampling.defect_crop > 0:
        which += f"; {sampling.defect_crop:.0%} of the crops of defective images were moved onto a defect"
    low, high = sampling.zoom
    if sampling.zoom != (1, 1):
        which += f"; crops at a scale of {low:g}" + (f" to {high:g}" if low < high else "")
    if sampling.paste > 0:
        which += f"; into {sampling.paste:.0%} of the crops with room for it a defect of some image was pasted"
    if sampling.hard > 0:
        hard = f"up to {100 * sampling.hard:.3g}% of the samples for what the last validation before it missed"
        which = f"{hard}; of the others {which}"
    return which
