"""How the recipe of `neu.py` was chosen: variants of the preset on training images alone, the test images left out.

A quarter of the training images stands in for the test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.neu import make_shards, recipe
from bench.quality.seeds import gain, mean_dice, miou, spread, values
from bench.quality.trial import TEST, VALIDATION, both_phases, folder_name, raw, train, tuned
from steel.shards.reader import ShardReader

DEVELOPMENT = (156, 471)
"""Images that stand in for the test, and that train: all 627 training images."""
RECIPE = "the recipe"
BASE = ("--optim.ema-decay", "0.99", "--optim.average-top-k", "3", "--augment.brightness-contrast.p", "0.5")
"""What the recipe had when this was measured, and lost by what `parts.py` says of it."""
FOUR = ("--phases.1.micro-batch", "4")
VARIANTS: Mapping[str, Sequence[str]] = {
    RECIPE: (),
    "half the rate on crops": ("--phases.0.lr", "5e-4"),
    "the rate on crops rises for 0.3 of the steps": ("--phases.0.warmup", "0.3"),
    "micro-batches of 4 whole images": FOUR,
    "these, and twice the rates": (*FOUR, "--phases.0.lr", "2e-3", "--phases.1.lr", "2e-4"),
    "these, and classification loss 0": (*FOUR, *both_phases("loss.classification", "0")),
    "these, and classification loss 0.2": (*FOUR, *both_phases("loss.classification", "0.2")),
    "these, and BCE and Dice weigh the same": (*FOUR, "--phases.0.loss.bce", "0.5", "--phases.0.loss.dice", "0.5"),
    "these, with BCE and Dice, no Lovász": (
        *(*FOUR, "--phases.1.loss.lovasz", "0", "--phases.1.loss.bce", "0.75", "--phases.1.loss.dice", "0.25"),
    ),
    "these, with Lovász on absent classes too": (*FOUR, "--phases.1.loss.absent", "1"),
    "these, for 6 passes and at three times their rate": (
        *(*FOUR, "--phases.0.epochs", "10", "--phases.1.epochs", "6", "--phases.1.lr", "3e-4"),
    ),
}
"""Options on top of `neu.recipe` and `BASE`."""


def run(source: Path, work: Path, *, passes: int, seeds: Sequence[int], variants: Sequence[str]) -> str:
    """Train the variants; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        work: where data and runs go.
        passes: times each training image is seen.
        seeds: of the trainings.
        variants: names in `VARIANTS`; the recipe itself is always there.
    """
    data = make_shards(source, work, development=DEVELOPMENT)
    num = np.bincount(np.asarray(ShardReader(str(data)).index.fold), minlength=3)
    lines = [
        f"{num[2]} images train, {num[VALIDATION]} validate, {num[TEST]} stand in for the test images, which have no "
        f"part in this; network and passes as above; seeds {', '.join(map(str, seeds))}. IoU and Dice in percent. "
        "The recipe also had a moving average of 0.99, the average of the 3 best epochs, and brightness and contrast, "
        "which it has lost since.",
        "",
        "| | mean IoU, threshold 0.5 | against the recipe, points | 95 % over seeds | 95 % over images | "
        "mean IoU of the last weights | mean IoU, threshold tuning and TTA | mean Dice, threshold tuning and TTA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    trials = {
        name: [
            train(
                work / f"{folder_name(name)}-{seed}", data, "severstal", [*recipe(passes, seed), *BASE, *VARIANTS[name]]
            )
            for seed in seeds
        ]
        for name in dict.fromkeys((RECIPE, *variants))
    }
    half = {name: [raw(trial, data) for trial in those] for name, those in trials.items()}
    for name, those in trials.items():
        difference = "- | - | -" if name == RECIPE else gain(half[name], half[RECIPE], miou).text()
        found = [tuned(trial, data) for trial in those]
        cells = [
            values([raw(trial, data, last=True) for trial in those], miou),
            values(found, miou),
            values(found, mean_dice),
        ]
        lines.append(
            f"| {name} | {spread(values(half[name], miou))} | {difference} | {' | '.join(map(spread, cells))} |"
        )
    return "\n".join(lines)
