"""What each technique is worth on real steel: the recipe with one thing changed at a time, several seeds each.

Few training images are seen many times, as in the full-size recipe (38 passes), for what holds against overfitting
shows nowhere else. None of them is a test image of `neu.py`: the defaults can follow these figures, and the comparison
with the plain loop is not touched by that.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bench.quality.ablation import gates
from bench.quality.neu import CROP, DECODER, ENCODER, make_shards, recipe
from bench.quality.seeds import Gain, gain, miou, spread, values
from bench.quality.trial import TEST, VALIDATION, Trial, both_phases, folder_name, train, tuned

NUM_TEST, NUM_TRAIN = 200, 96
PASSES, BATCH = 20, 8
RECIPE = "the recipe"


def _augment(name: str, p: float) -> tuple[str, ...]:
    return (f"--augment.{name}.p", str(p))


BASE = (
    *("--optim.average-top-k", "3", *_augment("brightness_contrast", 0.5)),
    *("--optim.ema-decay", "0.975"),  # spans a sixth of the steps
)
"""What the recipe had when this was measured. It was not shown to help, and the presets have it no more."""

KEPT: Mapping[str, Sequence[str]] = {
    "classification head's loss": both_phases("loss.classification", "0"),
    "Lovász in the last phase": (
        *("--phases.1.loss.lovasz", "0", "--phases.1.loss.bce", "0.75", "--phases.1.loss.dice", "0.25"),
    ),
    "whole images last": (
        # A whole image has 2.4 times the pixels of a crop.
        *("--phases.1.crop", str(CROP), str(CROP), "--phases.1.epochs", "10", "--phases.1.sampling.defect-crop", "0.5"),
    ),
    "crops moved onto defects": ("--phases.0.sampling.defect-crop", "0"),
    "flips": (*_augment("hflip", 0), *_augment("vflip", 0)),
}
"""Parts of the recipe, and the options that take them away."""

DROPPED: Mapping[str, Sequence[str]] = {
    "moving average (EMA)": ("--optim.ema-decay", "0"),
    "average of the best epochs": ("--optim.average-top-k", "0"),
    "brightness and contrast": _augment("brightness_contrast", 0),
}
"""The same for what `BASE` adds to the presets."""

ADDED: Mapping[str, Sequence[str]] = {
    "focal loss for BCE": (
        *("--phases.0.loss.bce", "0", "--phases.0.loss.focal", "0.75"),
        *("--phases.1.loss.bce", "0", "--phases.1.loss.focal", "0.5"),
    ),
    "Tversky loss for Dice": ("--phases.0.loss.dice", "0", "--phases.0.loss.tversky", "0.25"),
    "Dice on absent classes": ("--phases.0.loss.absent", "1"),
    "quarter turns": _augment("rotate90", 0.5),
    "rotation, shear, shift, scale": _augment("affine", 0.5),
    "gamma": _augment("gamma", 0.5),
    "noise": _augment("noise", 0.5),
    "blur": _augment("blur", 0.5),
    "side bars": _augment("side_bars", 0.25),
}
"""What the recipe leaves out, and the options that add it."""

PARTS = {**KEPT, **DROPPED, **ADDED}


def run(source: Path, work: Path, *, seeds: Sequence[int], parts: Sequence[str]) -> str:
    """Train the recipe without each part, or with it; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        work: where data and runs go.
        seeds: of the trainings.
        parts: names in `PARTS`; the recipe itself is always there.
    """
    data = make_shards(source, work, development=(NUM_TEST, NUM_TRAIN))
    options: Mapping[str, Sequence[str]] = {RECIPE: ()} | {name: PARTS[name] for name in parts}
    side_by_side = 1 if torch.cuda.is_available() else os.cpu_count()
    with ProcessPoolExecutor(side_by_side, multiprocessing.get_context("spawn")) as pool:
        units = [pool.submit(_unit, name, data, work, options[name], seed) for seed, name in product(seeds, options)]
        for unit in units:
            unit.result()
    trials = {name: [_unit(name, data, work, options[name], seed) for seed in seeds] for name in options}
    return "\n".join(
        [
            f"{NUM_TRAIN} images train; {NUM_TEST} others stand in for the test images, which have no part in this; "
            f"{ENCODER} from scratch with a decoder of {'-'.join(map(str, DECODER))} channels, {PASSES} passes in "
            f"batches of {BATCH}; seeds {', '.join(map(str, seeds))}. Mean IoU in percent, tuned on the "
            "validation fold, without test-time augmentation. Trainings ran side by side, one a core.",
            "",
            "What a part adds: the recipe less the recipe without it, or the recipe with it less the recipe. "
            f"The recipe is the preset with {', '.join(DROPPED)}, which were on by default and are off after this.",
            "",
            "The weights at the end of training (their moving average, where there is one):",
            "",
            *_table(trials, data, last=True),
            "",
            "The weights that are shipped, chosen on the validation fold among those at the end, the best epoch and "
            "averages:",
            "",
            *_table(trials, data, last=False),
            "",
            "Balanced sampling, class weights and defect blackout: see the synthetic strips. Not measured anywhere: "
            "the avoidance of mostly black crops, which needs full-size strips with wide black margins.",
            "",
            "Decisions on the recipe's own models:",
            "",
            *gates(trials[RECIPE], data),
        ]
    )


def _table(trials: Mapping[str, Sequence[Trial]], data: Path, *, last: bool) -> list[str]:
    outcomes = {name: [tuned(trial, data, tta=(), last=last) for trial in those] for name, those in trials.items()}
    recipe_outcomes = outcomes[RECIPE]
    lines = [
        "| part | by default | mean IoU (each seed) | it adds, points | 95 % over seeds | 95 % over images | "
        "shown | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, those in outcomes.items():
        seconds = f"{np.mean([trial.seconds for trial in trials[name]]):.0f}"
        if name == RECIPE:
            lines.append(f"| {name} | | {spread(values(those, miou))} | - | - | - | - | {seconds} |")
            continue
        sides = (those, recipe_outcomes) if name in ADDED else (recipe_outcomes, those)
        added = gain(*sides, miou)
        option = f"with {name} | off" if name in ADDED else f"without {name} | {'on' if name in KEPT else 'off'}"
        lines.append(f"| {option} | {spread(values(those, miou))} | {added.text()} | {verdict(added)} | {seconds} |")
    return lines


def verdict(added: Gain) -> str:
    """In words, whether a part helps or harms, and which of the two intervals exclude 0."""
    spans = {"seeds": added.seeds_interval, "images": added.images_interval}
    shown = [name for name, span in spans.items() if span is not None and span[0] * span[1] > 0]
    if not shown:
        return "no"
    return f"{'helps' if added.mean > 0 else 'harms'} ({' and '.join(shown)})"


def unit_options(seed: int) -> list[str]:
    """The recipe at this size, on top of the preset for Severstal."""
    return [
        *(*recipe(PASSES, seed), *BASE),
        *("--phases.0.batch-size", str(BATCH), "--phases.1.batch-size", str(BATCH)),
        *("--validation.tta", "--runtime.workers", "0"),
    ]


def _unit(name: str, data: Path, work: Path, extra: Sequence[str], seed: int) -> Trial:
    """Train, and say what the weights make of both folds; nothing is done twice."""
    torch.set_num_threads(1)
    options = [*unit_options(seed), *extra]
    trial = train(work / f"{folder_name(name)}-{seed}", data, "severstal", options, alone=False)
    for fold, last in product((VALIDATION, TEST), (False, True)):
        trial.statistics(data, fold, (), last=last)
    return trial
