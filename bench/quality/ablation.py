"""What each technique is worth: the recipe with one thing changed at a time, several seeds each.

A unit is short and small, so it answers for short trainings of small networks; `bench/quality.md` says what was not
measured at full size. Gates and test-time augmentation need no training of their own: they are compared on the
recipe's own models.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.seeds import Measure, gain, mean_dice, mean_dice_positive, miou, spread, values
from bench.quality.trial import FLIPS, TEST, Trial, both_phases, folder_name, train, tuned
from data_prep.__main__ import main as shard
from steel.decision import default_decision
from steel.gates import GATES
from steel.metrics.scores import Outcome, decide
from steel.synthetic.dataset import synthesize

CROP = ("64", "128")
EPOCHS, FULL_EPOCHS = 12, 1
"""Of crops, and of whole images after them: what a unit trains."""


BASE = (
    *("--optim.ema-decay", "0.97", "--optim.average-top-k", "3", "--augment.brightness-contrast.p", "0.5"),
    *both_phases("loss.class-weights", "3", "2", "2", "1"),
)
"""What the demo's recipe had when this was measured. It was not shown to help, and the presets have it no more."""

VARIANTS: Mapping[str, Sequence[str]] = {
    "the recipe": (),
    "without the classification head's loss": both_phases("loss.classification", "0"),
    "without Lovász in the last phase": ("--phases.1.loss.lovasz", "0", "--phases.1.loss.dice", "0.5"),
    "without EMA": ("--optim.ema-decay", "0"),
    "last phase on crops, too": (
        *("--phases.1.crop", *CROP, "--phases.1.epochs", str(3 * FULL_EPOCHS)),
        *("--phases.1.sampling.defect-crop", "0.8"),
    ),
    "balanced sampling": both_phases("sampling.order", "balanced"),
    "crops not moved onto defects": ("--phases.0.sampling.defect-crop", "0"),
    "without class weights": both_phases("loss.class-weights", "None"),
    "without brightness and contrast": ("--augment.brightness-contrast.p", "0"),
    "defect blackout in their place": ("--augment.brightness-contrast.p", "0", "--augment.blackout.p", "0.25"),
}
"""Options on top of the recipe, the disputed ones first. A full image has three times the pixels of a crop."""


def make_shards(work: Path) -> Path:
    """Synthetic strips as the demo has them, with a validation, a test and six training folds."""
    out = work / "shards"
    if not (out / "manifest.json").exists():
        synthesize(work / "data", 700, 1, 0, class_share=(0.25,) * 4)
        images = ("--images", str(work / "data" / "train_images"), "--labels", str(work / "data" / "train.csv"))
        if shard([*images, "--out", str(out), "--folds", "7", "--resize", "64x400"]) != 0:
            sys.exit(1)
    return out


def run(work: Path, *, seeds: Sequence[int], variants: Sequence[str]) -> str:
    """Train every variant for every seed; the section of the report as Markdown.

    Args:
        work: where data and runs go.
        seeds: of the trainings.
        variants: names in `VARIANTS`; the recipe itself is always there.
    """
    data = make_shards(work)
    recipe = [
        *("--phases.0.epochs", str(EPOCHS), "--phases.1.epochs", str(FULL_EPOCHS)),
        *("--validation.every-epochs", str(EPOCHS // 3), *BASE),
    ]
    names = ["the recipe", *(name for name in variants if name != "the recipe")]
    trials = {name: [_train(name, data, work, recipe, seed) for seed in seeds] for name in names}
    left_out = [name for name in VARIANTS if name not in names]
    return "\n".join(
        [
            "Rows that begin with 'without', and crops on defects and the full-size finish, take away what was on; the "
            "other rows add what is off by default. EMA, class weights, brightness and contrast are off after this.",
            "",
            "The weights at the end of training (their moving average, where there is one), tuned: what a part "
            "does to training.",
            "",
            *_table(trials, data, last=True),
            "",
            "The weights that are shipped, chosen on the validation fold among those at the end, the best epoch and "
            "averages: what a part does to what users get.",
            "",
            *_table(trials, data, last=False),
            "",
            f"Not measured: anything at full size{''.join(f'; {name}' for name in left_out)}.",
            "",
            *gates(trials[names[0]], data),
        ]
    )


def _table(trials: Mapping[str, Sequence[Trial]], data: Path, *, last: bool) -> list[str]:
    outcomes = {name: [tuned(trial, data, last=last) for trial in those] for name, those in trials.items()}
    recipe = next(iter(outcomes.values()))
    lines = [
        "| | positive Dice (each seed) | against the recipe, points | 95 % over seeds | 95 % over test images | "
        "mean Dice | mean IoU | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, those in outcomes.items():
        difference = "- | - | -" if those is recipe else gain(those, recipe, mean_dice_positive).text()
        seconds = np.mean([trial.seconds for trial in trials[name]])
        lines.append(
            f"| {name} | {spread(values(those, mean_dice_positive))} | {difference} | "
            f"{_mean(those, mean_dice)} | {_mean(those, miou)} | {seconds:.0f} |"
        )
    return lines


def gates(trials: Sequence[Trial], data: Path) -> list[str]:
    """Decisions on the recipe's own models: the classic pipelines as gates, one half, no test-time augmentation."""
    chosen = {gate: [tuned(trial, data, (gate,)) for trial in trials] for gate in GATES}
    half = [
        decide(statistics, default_decision(statistics.num_classes))
        for statistics in (trial.statistics(data, TEST, FLIPS) for trial in trials)
    ]
    free = [tuned(trial, data) for trial in trials]
    sides = {"thresholds of one half, no threshold tuning": half, "tuned, gate chosen by threshold tuning": free}
    sides["the same without test-time augmentation"] = [tuned(trial, data, tta=()) for trial in trials]
    sides |= {f"tuned, gate {gate}": outcomes for gate, outcomes in chosen.items()}
    lines = [
        "| decision | mean Dice (each seed) | against tuned without a gate, points | 95 % over seeds | "
        "95 % over test images | positive Dice |",
        "|---|---|---|---|---|---|",
    ]
    for name, outcomes in sides.items():
        lines.append(
            f"| {name} | {spread(values(outcomes, mean_dice))} | {gain(outcomes, chosen['none'], mean_dice).text()} | "
            f"{_mean(outcomes, mean_dice_positive)} |"
        )
    return lines


def _mean(outcomes: Sequence[Outcome], measure: Measure) -> str:
    return f"{100 * np.mean(values(outcomes, measure)):.2f}"


def _train(name: str, data: Path, work: Path, recipe: Sequence[str], seed: int) -> Trial:
    folder = work / f"{folder_name(name)}-{seed}"
    return train(folder, data, "demo", [*recipe, *VARIANTS[name], "--seed", str(seed)])
