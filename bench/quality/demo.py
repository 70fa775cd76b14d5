"""Whether the demo reaches its bounds on data sets that its recipe was not chosen on."""

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from bench.quality.trial import FLIPS, Trial, train
from data_prep.__main__ import main as shard
from steel.checkpoint import load_checkpoint
from steel.config import Config
from steel.metrics.scores import Scores, decide, score
from steel.synthetic.dataset import synthesize
from train.arguments import parse_fit
from train.engine.batch_plan import plan_phases

SEEDS = (11, 12, 13)
"""Of the data and the training, as `SEED` of launch/demo.sh. Choose a recipe on 1, 2 and 3, never on these."""
ABOVE_FLOOR, POSITIVE = 0.03, 0.40
"""What the demo must reach: so far above answering nothing, and so much Dice where there is a defect."""

SIZE, NUM_TRAIN = (64, 400), 640
"""Of an image in the shards, and how many train."""
STEP = 8 * 64 * 128
"""Pixels."""

OURS = "the demo"
RECIPES: Mapping[str, Sequence[str]] = {OURS: ()}
"""Options on top of the preset; a second one is trained and judged beside the first."""


def run(work: Path, *, seeds: Sequence[int]) -> str:
    """Train each recipe on each data set; the section of the report as Markdown.

    Args:
        work: where data and runs go.
        seeds: of data and trainings.
    """
    lines = [
        f"What `launch/demo.sh` does with `SEED` set to {', '.join(map(str, seeds))}, for data and training; nothing "
        "was chosen on these. A training is one process with one thread; its processor seconds include the validations "
        "and the choice of weights. Scores are of the 100 test images, with the decision and the flips that "
        "were shipped. Work: steps of 8 crops of 64x128 that have as many pixels as were trained on, whole images "
        f"included. Bounds: mean Dice {100 * ABOVE_FLOOR:.0f} points above answering nothing, positive Dice "
        f"{100 * POSITIVE:.0f}.",
        "",
        "| seed | recipe | work | processor seconds | mean Dice | answering nothing | above | positive Dice | bounds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, recipe in product(seeds, RECIPES):
        trial, scores = measure(work, seed, recipe)
        three = (scores.mean_dice, scores.mean_dice_all_empty, scores.mean_dice_positive)
        mean, floor, positive = (100 * float(value) for value in three)
        lines.append(
            f"| {seed} | {recipe} | {work_of(config_of(recipe)):,.0f} | {trial.processor_seconds:.0f} | {mean:.2f} | "
            f"{floor:.2f} | {mean - floor:+.2f} | {positive:.2f} | {'met' if meets_bounds(scores) else 'missed'} |"
        )
    return "\n".join(lines)


def meets_bounds(scores: Scores) -> bool:
    """Whether these are good enough for the demo."""
    above = float(scores.mean_dice - scores.mean_dice_all_empty)
    return above >= ABOVE_FLOOR and float(scores.mean_dice_positive) >= POSITIVE


def work_of(config: Config) -> float:
    """Pixels that a run on the demo's data trains on, in all phases: steps of 8 crops of 64x128 that have as many."""
    lengths = [NUM_TRAIN] * len(config.phases)
    plans = plan_phases(config.phases, lengths, config.validation.every_epochs, rank=0, world=1)
    areas = [math.prod(SIZE if plan.phase.crop == (0, 0) else plan.phase.crop) for plan in plans]
    return sum(plan.steps * plan.phase.batch_size * area for plan, area in zip(plans, areas, strict=True)) / STEP


def make_shards(work: Path, seed: int) -> tuple[Path, Path]:
    """The shards that launch/demo.sh makes: training images in five folds, test images in one."""
    data = work / f"data-{seed}"
    synthesize(data / "data", 800, 100, seed, class_share=(0.25,) * 4)
    parts = {"shards": ("train_images", "train.csv", "5"), "test_shards": ("test_images", "test_truth.csv", "1")}
    for out, (images, truth, folds) in parts.items():
        source = ("--images", str(data / "data" / images), "--labels", str(data / "data" / truth))
        if shard([*source, "--out", str(data / out), "--folds", folds, "--resize", "{}x{}".format(*SIZE)]) != 0:
            sys.exit(1)
    return data / "shards", data / "test_shards"


def config_of(recipe: str) -> Config:
    """The demo's configuration under one of `RECIPES`."""
    return parse_fit("bench.quality", ["--preset", "demo", "--data", "-", "--out", "-", *RECIPES[recipe]]).config


def measure(work: Path, seed: int, recipe: str = OURS) -> tuple[Trial, Scores]:
    """Train one recipe on one data set, in one process with one thread; its scores on the test images as shipped."""
    shards, test_shards = make_shards(work, seed)
    options = ("--folds.test", "--seed", str(seed), *RECIPES[recipe])
    trial = train(work / f"{recipe.replace(' ', '-')}-{seed}", shards, "demo", options, alone=False)
    statistics = trial.statistics(test_shards, 0, FLIPS)
    decision = load_checkpoint(trial.checkpoint).decision
    assert decision is not None, f"{trial.checkpoint} was not tuned"
    return trial, score(decide(statistics, decision))
