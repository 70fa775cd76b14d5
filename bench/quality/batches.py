"""Does the batch that many GPUs share cost quality? The preset for Severstal on rendered strips in batches of 16 and of
64, at equal passes, few of them and three times as many: what a large batch costs is steps, and the preset has some
thousand of 64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.quality.pretrained import SETS, Sides
from bench.quality.seeds import gain, mean_dice, mean_dice_positive, miou, spread, values
from bench.quality.trial import TEST, VALIDATION, Trial, at_one_half, folder_name, trained_at
from steel.checkpoint import load_checkpoint
from steel.metrics.scores import Outcome
from steel.shards.reader import ShardReader

PASSES = (8, 24)
BATCH = "batches of 16"
"""Of the set's own preset, with which the others are compared."""
RATES = ("--phases.0.lr", "2e-3", "--phases.1.lr", "2e-4")
"""The preset's, and twice those that go with batches of 16: by the square root of the batch."""
VARIANTS: Mapping[str, tuple[int, Sequence[str]]] = {
    BATCH: (16, ()),
    "batches of 64": (64, ()),
    "batches of 64, twice the rates": (64, RATES),
}
"""Images of a batch, and options on top of the preset as `pretrained-strips` has it."""


def run(data: Path, weights: Path, work: Path, *, seeds: Sequence[int]) -> str:
    """Train the variants; the section of the report as Markdown.

    Micro-batches are of 8 images in all of them.

    Args:
        data: shards of rendered strips.
        weights: file of the encoder's pretrained weights.
        work: where runs go; those that `pretrained-strips` has trained are taken from there.
        seeds: of the trainings.
    """
    of_set = SETS["pretrained-strips"]
    trials = {}
    for passes in PASSES:
        for name, (batch_size, options) in VARIANTS.items():
            set_so = replace(of_set, batch_size=batch_size)
            sides = Sides(data, work, str(weights.absolute()), passes, set_so)
            folder = "severstal" if name == BATCH else folder_name(f"severstal {name}")
            trials[passes, name] = [sides.severstal(seed, folder, options) for seed in seeds]
    halves = {
        key: [at_one_half(trial.statistics(data, VALIDATION, ())) for trial in those] for key, those in trials.items()
    }
    num = int((~np.isin(ShardReader(str(data)).index.fold, (VALIDATION, TEST))).sum())
    lines = [
        f"The preset `severstal` on the strips of `pretrained-strips`, with its network and weights: crops of "
        f"{'x'.join(map(str, of_set.crop))} of {num} images, then whole ones, in micro-batches of 8, which is what "
        "batch normalisation sees, however large the batch. Judged on the validation images, which choose the weights, "
        f"at thresholds of one half: the test images have no part in this. Seeds {', '.join(map(str, seeds))}; in "
        f"percent. {trained_at([trial for those in trials.values() for trial in those])}",
        "",
        "| passes | | steps on crops | mean IoU | against batches of 16, points | 95 % over seeds | 95 % over images | "
        "positive Dice | mean Dice |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(*key, _steps(trials[key][0], num), outcomes, halves[key[0], BATCH]) for key, outcomes in halves.items()),
    ]
    return "\n".join(lines)


def _steps(trial: Trial, num: int) -> int:
    """Of the first phase, from what the checkpoint says of its run."""
    phase = load_checkpoint(trial.checkpoint).provenance["config"]["phases"][0]
    return math.ceil(phase["epochs"] * num / phase["batch_size"])


def _row(passes: int, name: str, steps: int, outcomes: Sequence[Outcome], reference: Sequence[Outcome]) -> str:
    difference = "- | - | -" if outcomes is reference else gain(outcomes, reference, miou).text()
    iou, positive, dice = (spread(values(outcomes, measure)) for measure in (miou, mean_dice_positive, mean_dice))
    return f"| {passes} | {name} | {steps:,} | {iou} | {difference} | {positive} | {dice} |"
