"""Does the batch that many GPUs share cost quality? The preset for Severstal in the batches that its comparison with
the plain loop has and in batches of 64, at equal passes, few of them and where images suffice three times as many: what
a large batch costs is steps, and the preset has some thousand of 64.
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

PASSES: Mapping[str, Sequence[int]] = {
    "pretrained-strips": (8, 24),
    "pretrained-neu": (8, 24),
    "pretrained-bsdata": (16,),
}
"""On each set. BSData has 93 images that train, two batches a pass."""
VARIANTS: Mapping[str, Sequence[str]] = {
    "batches of 64": (),
    "batches of 64, twice the rates": ("--phases.0.lr", "2e-3", "--phases.1.lr", "2e-4"),
}
"""Options on top of the preset as the comparison with the plain loop has it. Twice its rates, which are those of
batches of 16, by the square root of the batch: the preset's own."""


def run(name: str, data: Path, weights: Path, work: Path, *, seeds: Sequence[int], variants: Sequence[str]) -> str:
    """Train the variants and what they are compared with; the section of the report as Markdown.

    Micro-batches are of 8 images in all of them.

    Args:
        name: of the set.
        data: its shards.
        weights: file of the encoder's pretrained weights.
        work: where runs go; those that the comparison with the plain loop has trained are taken from there.
        seeds: of the trainings.
        variants: names of `VARIANTS`.
    """
    of_set = SETS[name]
    reference = f"batches of {of_set.batch_size}"
    trials = {}
    for passes in PASSES[name]:
        small = Sides(data, work, str(weights.absolute()), passes, of_set)
        large = replace(small, of_set=replace(of_set, batch_size=64))
        trials[passes, reference] = [small.severstal(seed) for seed in seeds]
        for variant in variants:
            folder = folder_name(f"severstal {variant}")
            trials[passes, variant] = [large.severstal(seed, folder, VARIANTS[variant]) for seed in seeds]
    halves = {
        key: [at_one_half(trial.statistics(data, VALIDATION, ())) for trial in those] for key, those in trials.items()
    }
    num = int((~np.isin(ShardReader(str(data)).index.fold, (VALIDATION, TEST))).sum())
    lines = [
        f"The preset `severstal` on the images of `{name}`, with its network and weights: crops of "
        f"{'x'.join(map(str, of_set.crop))} of {num} images, then whole ones, in micro-batches of 8, which is what "
        "batch normalisation sees, however large the batch. Judged on the validation images, which choose the weights, "
        f"at thresholds of one half: the test images have no part in this. Seeds {', '.join(map(str, seeds))}; in "
        f"percent. {trained_at([trial for those in trials.values() for trial in those])}",
        "",
        f"| passes | | steps on crops | mean IoU | against {reference}, points | 95 % over seeds | 95 % over images | "
        "positive Dice | mean Dice |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            _row(*key, _steps(trials[key][0], num), outcomes, halves[key[0], reference])
            for key, outcomes in halves.items()
        ),
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
