"""What `--preset auto` could do better on pretrained weights: variants of it on NEU-Seg's training images alone.

A quarter of the training images stands in for the test, as in `choice.py`; the test images have no part in this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.quality.choice import DEVELOPMENT
from bench.quality.neu import make_shards
from bench.quality.pretrained import AUTO, SETS, Sides, precision_here
from bench.quality.seeds import Gain, Measure, gain, mean_dice, mean_dice_positive, miou, spread, values
from bench.quality.trial import (
    TEST,
    VALIDATION,
    Trial,
    at_one_half,
    both_phases,
    folder_name,
    raw,
    trained_at,
    tuned,
)
from steel.metrics.scores import Outcome
from steel.shards.reader import ShardReader

IMAGE_DICE = ("--phases.0.loss.batch-dice", "0", "--phases.0.loss.dice")
LOW_RATES = ("--phases.0.lr", "3.5e-4", "--phases.1.lr", "3.5e-5")
"""At a batch of 8 by the square root from 1e-3 and 1e-4 at 64, which Severstal's preset once had."""
LOVASZ_LAST = (*("--phases.1.loss.lovasz", "0.5", "--phases.1.loss.bce", "0.5", "--phases.1.loss.batch-dice", "0"),)
NO_BRIGHTNESS = "no brightness and contrast"
WEIGHED = "classes weighed by the inverse root of their images"
LATER_ABSENT = ("--phases.1.loss.absent", "1")


def _batches(micro: int, batch: int, rates: float = 1.0) -> tuple[str, ...]:
    """The rates, of 2e-3 and 2e-4 on a CPU, times `rates`."""
    sizes = (*both_phases("batch-size", str(batch)), *both_phases("micro-batch", str(micro)))
    return (*sizes, "--phases.0.lr", f"{2e-3 * rates:g}", "--phases.1.lr", f"{2e-4 * rates:g}")


VARIANTS: Mapping[str, Sequence[str]] = {
    "as the preset for Severstal trains": (
        *(*LOW_RATES, "--phases.0.warmup", "0.05", "--phases.0.loss.bce", "0.75", *IMAGE_DICE, "0.25"),
        *LOVASZ_LAST,
        *("--phases.0.sampling.defect-crop", "0.5", "--augment.brightness-contrast.p", "0"),
    ),
    "a sixth of the rates": LOW_RATES,
    "half of the rates": ("--phases.0.lr", "1e-3", "--phases.1.lr", "1e-4"),
    "twice the rates": ("--phases.0.lr", "4e-3", "--phases.1.lr", "4e-4"),
    "Dice of each image": (*IMAGE_DICE, "1"),
    "absent classes judged": both_phases("loss.absent", "1"),
    "absent classes judged last": LATER_ABSENT,
    "the rate rises for 0.05 of the steps": ("--phases.0.warmup", "0.05"),
    "half of the crops moved onto a defect": ("--phases.0.sampling.defect-crop", "0.5"),
    "crops of 160x160 in the first phase": ("--phases.0.crop", "160", "160"),
    NO_BRIGHTNESS: ("--augment.brightness-contrast.p", "0"),
    "no quarter turns": ("--augment.rotate90.p", "0"),
    "no classification loss": both_phases("loss.classification", "0"),
    "five times the classification loss": both_phases("loss.classification", "0.1"),
    WEIGHED: (),  # `root_weights` of the set
    "classes in equal shares": ("--phases.0.sampling.order", "balanced"),
    "BCE and Lovász last": LOVASZ_LAST,
    "half of the last phase by what the last validation missed": ("--phases.1.sampling.hard", "0.5"),
    "no boundary term": both_phases("loss.boundary", "0"),
    "focal Tversky loss for Dice in the first phase": (
        *("--phases.0.loss.batch-dice", "0", "--phases.0.loss.tversky", "1", "--phases.0.loss.tversky-power", "0.75"),
    ),
    "crops at two thirds to one and a half of their size": ("--phases.0.sampling.zoom", "0.67", "1.5"),
    "deep supervision of 3 stages": ("--model.deep-supervision", "3"),
    "a moving average of 0.99 of the weights": ("--optim.ema-decay", "0.99"),
    "that average, and absent classes judged last": ("--optim.ema-decay", "0.99", *LATER_ABSENT),
    "a moving average that fits any length": ("--optim.ema-decay", "1"),
    "the equal average of the last phase's weights": ("--optim.swa",),
    "the average of the 3 best validations": ("--optim.average-top-k", "3"),
    "half of the rates for the encoder": ("--optim.encoder-lr-scale", "0.5"),
    "layer decay of 0.75": ("--optim.layer-decay", "0.75"),
    "the encoder frozen for one pass": ("--optim.freeze-encoder-epochs", "1"),
    "a weight decay of 0.05": ("--optim.weight-decay", "0.05"),
    "no flips": ("--augment.hflip.p", "0", "--augment.vflip.p", "0"),
    "rotation, shear and scale": ("--augment.affine.p", "0.5"),
    "gamma": ("--augment.gamma.p", "0.5"),
    "noise": ("--augment.noise.p", "0.5"),
    "blur": ("--augment.blur.p", "0.5"),
    "side bars": ("--augment.side-bars.p", "0.25"),
    "defect blackout": ("--augment.blackout.p", "0.25"),
    "focal loss for cross-entropy": (*both_phases("loss.bce", "0"), *both_phases("loss.focal", "1")),
    "micro-batches of 16, batches of 16": _batches(16, 16),
    "micro-batches of 8, batches of 32": _batches(8, 32),
    "micro-batches of 32, batches of 32": _batches(32, 32),
    "micro-batches of 16, batches of 16, 1.4 times the rates": _batches(16, 16, 1.4),
    "micro-batches of 32, batches of 32, twice the rates": _batches(32, 32, 2),
}
"""Options on top of `--preset auto`."""
FOR_CLEAN: Mapping[str, Sequence[str]] = {
    "natural order": ("--phases.0.sampling.order", "natural"),
    "natural order, no brightness and contrast": (
        *("--phases.0.sampling.order", "natural", "--augment.brightness-contrast.p", "0"),
    ),
}
"""More of them where images are clean: there `auto` has them and each class in equal shares."""
VARIANTS_ON = {"pretrained-bsdata": VARIANTS, "pretrained-strips": {**VARIANTS, **FOR_CLEAN}}
"""By the names of other sets than NEU-Seg."""
AVERAGES = (
    "a moving average of 0.99 of the weights",
    "a moving average that fits any length",
    "the equal average of the last phase's weights",
)
"""Variants whose last checkpoint is the average."""
Column = tuple[Mapping[str, Sequence[Outcome]], Measure]
"""What a column of the tables shows: a measure of each side's outcomes, one per seed, `auto`'s first."""


def run(
    source: Path,
    weights: Path,
    work: Path,
    *,
    passes: int | None,
    seeds: Sequence[int],
    variants: Sequence[str],
    once: Sequence[str] = (),
) -> str:
    """Train the variants; the section of the report as Markdown.

    Args:
        source: NEU-Seg.
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        passes: times each training image is seen; as in the comparison on NEU-Seg when None.
        seeds: of the trainings.
        variants: names in `VARIANTS`.
        once: more of them, which are trained with the first seed alone.
    """
    data, of_set = make_shards(source, work, development=DEVELOPMENT), SETS["pretrained-neu"]
    sides = Sides(data, work, str(weights.absolute()), passes or of_set.passes, of_set)
    trials = train_variants(sides, seeds, variants, once)
    left_out = [name for name in VARIANTS if name not in trials]
    return "\n".join(
        [
            f"{DEVELOPMENT[1]} images train and {DEVELOPMENT[0]} others stand in for the test images, which have no "
            f"part in this; network and weights as on hot-rolled steel above, {sides.passes} passes; seeds "
            f"{', '.join(map(str, seeds))}, or the first, which is compared with `auto`'s first. All in "
            f"{precision_here()}; IoU and Dice in percent. "
            + trained_at([trial for those in trials.values() for trial in those])
            + (f" Not measured: {'; '.join(left_out)}." if left_out else ""),
            "",
            *against_auto(trials, data),
        ]
    )


def run_on_validation(
    name: str,
    data: Path,
    weights: Path,
    work: Path,
    *,
    passes: int | None,
    seeds: Sequence[int],
    variants: Sequence[str],
    once: Sequence[str] = (),
) -> str:
    """The same of another set, judged on its validation images at thresholds of one half; the test has no part in it.

    Args:
        name: of the set in `SETS`.
        data: its shards.
        weights: file of the encoder's pretrained weights.
        work: where its runs are; those of `auto` are not trained again.
        passes: times each training image is seen; the set's own number when None.
        seeds: of the trainings.
        variants: names in its part of `VARIANTS_ON`.
        once: more of them, which are trained with the first seed alone.
    """
    of_set = SETS[name]
    sides = Sides(data, work, str(weights.absolute()), passes or of_set.passes, of_set)
    trials = train_variants(sides, seeds, variants, once, VARIANTS_ON[name])
    half = {
        each: [at_one_half(trial.statistics(data, VALIDATION, ())) for trial in those] for each, those in trials.items()
    }
    lines = [
        f"{of_set.images}, network, weights and passes as above; judged on the validation images, which choose the "
        f"weights of both, at thresholds of one half: the test images have no part in this. Seeds "
        f"{', '.join(map(str, seeds))}, or the first, which is compared with `auto`'s first. All in "
        f"{precision_here()}; scores in percent. {trained_at(trial for those in trials.values() for trial in those)}",
        "",
        *tables(
            {"mean IoU": (half, miou), "mean Dice": (half, mean_dice), "positive Dice": (half, mean_dice_positive)}
        ),
    ]
    return "\n".join(lines)


def train_variants(
    sides: Sides,
    seeds: Sequence[int],
    variants: Sequence[str],
    once: Sequence[str] = (),
    table: Mapping[str, Sequence[str]] = VARIANTS,
) -> dict[str, list[Trial]]:
    """`auto` first, then variants of `table` with all seeds, then those of `once` with the first."""
    trials = {AUTO: [sides.auto(seed) for seed in seeds]}
    for name in (*variants, *once):
        options = options_of(name, sides.data, table)
        trials[name] = [sides.auto(seed, folder_name(name), options) for seed in (seeds[:1] if name in once else seeds)]
    return trials


def options_of(name: str, data: Path, variants: Mapping[str, Sequence[str]] = VARIANTS) -> Sequence[str]:
    """The options of one of the variants on a set."""
    return root_weights(data) if name == WEIGHED else variants[name]


def root_weights(data: Path) -> tuple[str, ...]:
    """The words that weigh each class by the inverse root of its training images, on average by 1."""
    index = ShardReader(str(data)).index
    trains = ~np.isin(index.fold, (VALIDATION, TEST))
    inverse = (np.asarray(index.areas)[trains] > 0).sum(axis=0).clip(min=1) ** -0.5
    return both_phases("loss.class-weights", *(f"{weight:.3f}" for weight in inverse / inverse.mean()))


def against_auto(trials: Mapping[str, Sequence[Trial]], data: Path) -> list[str]:
    """Tables of variants beside `auto`, each compared with auto's first seeds on the test fold of the shards.

    Of those with averaged weights, the average has a row of its own: which weights are shipped is chosen by validation.
    """
    half, after = {}, {}
    for name, those in trials.items():
        for last in (False, True)[: 1 + (name in AVERAGES)]:
            words = f"{name}: itself, not what was shipped" if last else name
            half[words] = [raw(trial, data, last=last) for trial in those]
            after[words] = [tuned(trial, data, last=last) for trial in those]
    return tables(
        {
            "mean IoU, threshold 0.5": (half, miou),
            "mean Dice, threshold 0.5": (half, mean_dice),
            "mean IoU, threshold tuning and TTA": (after, miou),
            "mean Dice, threshold tuning and TTA": (after, mean_dice),
        }
    )


def tables(columns: Mapping[str, Column]) -> list[str]:
    """Scores of all sides, with the first column's difference from auto's beside it; then those of the other columns.

    A side with fewer seeds than `auto` is compared with auto's first.
    """
    first, *others = columns
    sides = list(columns[first][0])
    scores = _head(" ", first, "against auto, points", "95 % over seeds", "95 % over images", *others)
    differences = _head(" against auto, points (95 % over seeds; over images) ", *others)
    for side in sides:
        of_first, *more = (spread(values(outcomes[side], measure)) for outcomes, measure in columns.values())
        difference = "- | - | -" if side == AUTO else _difference(columns[first], side).text()
        scores.append(f"| {' | '.join([side, of_first, difference, *more])} |")
        if side != AUTO:
            cells = [_difference(columns[name], side).in_one_cell() for name in others]
            differences.append(f"| {' | '.join([side, *cells])} |")
    return [*scores, "", *differences]


def _head(corner: str, *names: str) -> list[str]:
    return [f"|{corner}| {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]


def _difference(column: Column, side: str) -> Gain:
    outcomes, measure = column
    return gain(outcomes[side], outcomes[AUTO][: len(outcomes[side])], measure)
