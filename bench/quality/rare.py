"""A rare class, of which 8 images train: whether `--preset auto` finds it, and what copy-paste and other sampling add.

Asked of two sets: of real steel (NEU-Seg, of whose inclusions 8 images train and 2 validate), and of synthetic strips
of which 8 of 1,000 training images have class 2.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.quality import neu
from bench.quality.pretrained import DECODER, ENCODER
from bench.quality.trial import FLIPS, TEST, VALIDATION, Trial, at_one_half, folder_name, train, trained_at
from data_prep.__main__ import main as shard
from steel.checkpoint import load_checkpoint
from steel.metrics.counts import PREDICTED, TRUE
from steel.metrics.scores import Outcome, decide, score
from steel.metrics.statistics import EvaluationStatistics
from steel.shards.reader import ShardReader
from steel.synthetic.dataset import synthesize

TRAINED, VALIDATED = 8, 2
"""Images with the rare class."""
NUM_IMAGES, NUM_TEST = 1250, 200
"""Synthetic images in five folds, of which one validates; and of a set of their own, for the test."""
SHARES = (0.08, 0.008, 0.3, 0.08)
"""Of the synthetic images with each class: 10 of 1,250 have class 2, so that 8 of 1,000 are left to training."""
TEST_SHARES = (0.25,) * 4
SIZE = "64x400"
AUTO = "auto"
VARIANTS: Mapping[str, Sequence[str]] = {
    AUTO: (),
    "natural order": ("--phases.0.sampling.order", "natural", "--phases.0.sampling.paste", "0"),
    "balanced order": ("--phases.0.sampling.order", "balanced", "--phases.0.sampling.paste", "0"),
    "natural order, copy-paste": ("--phases.0.sampling.order", "natural", "--phases.0.sampling.paste", "0.5"),
}
"""By what they are called, options on top of `--preset auto`."""


@dataclass(frozen=True)
class RareSet:
    """A set with a rare class."""

    name: str
    data: Path
    """Shards to train on, whose fold 0 validates."""
    test: tuple[Path, int]
    """Shards and fold."""
    rare: int
    """The class, from 0."""
    passes: int
    seeds_of: Mapping[str, int]
    """With how many seeds a variant other than auto is trained; one where it is not named."""


def run(of_set: RareSet, weights: Path, work: Path, *, seeds: Sequence[int], variants: Sequence[str]) -> str:
    """Train with every variant and seed; the section of the report as Markdown.

    Args:
        of_set: of `make_steel` or `make_strips`.
        weights: file of the encoder's pretrained weights.
        work: where runs go.
        seeds: of the trainings; other variants than auto have the first of them.
        variants: of `VARIANTS`.
    """
    lines = [
        f"`--preset auto` with {ENCODER} from ImageNet weights and a decoder of {'-'.join(map(str, DECODER))} "
        "channels; the decision that was shipped, with its gate, and thresholds of one half; all flips. Recall is the "
        "share of the test images with a class that are answered with it, alarms are test images without the rare "
        "class that are answered with it. Silent validations: those whose line in the log said that the rare class is "
        "never answered. Separation: how often an image with the rare class has more of it than one without (the area "
        "under the ROC curve, in percent), by its most probable pixel and by the classification head. "
        f"Seeds {', '.join(map(str, seeds))}; other variants than auto with the first ones.",
    ]
    return "\n".join([*lines, "", *_about(of_set), "", *_table(of_set, weights, work, seeds, variants)])


def make_steel(source: Path, work: Path) -> RareSet:
    """NEU-Seg with few inclusions; all of its test images."""
    data = neu.make_shards(source, work / "steel", few=(0, TRAINED, VALIDATED))
    return RareSet("real steel", data, (neu.make_shards(source, work / "steel"), TEST), 0, 13, {})


def make_strips(work: Path) -> RareSet:
    """Synthetic strips in five folds, and those of the test in one."""
    parts = {"train": (NUM_IMAGES, SHARES, "5", 1), "test": (NUM_TEST, TEST_SHARES, "1", 2)}
    for name, (number, shares, folds, seed) in parts.items():
        if not (work / name / "manifest.json").exists():
            made = work / f"{name}-images"
            synthesize(made, number, 1, seed, class_share=shares)
            given = ("--images", str(made / "train_images"), "--labels", str(made / "train.csv"))
            if shard([*given, "--out", str(work / name), "--folds", folds, "--resize", SIZE]) != 0:
                sys.exit(1)
    return RareSet("synthetic strips", work / "train", (work / "test", 0), 1, 8, {"balanced order": 3})


def _about(of_set: RareSet) -> list[str]:
    manifest, index = ShardReader(str(of_set.data)).manifest, ShardReader(str(of_set.data)).index
    has, fold = np.asarray(index.areas)[:, of_set.rare] > 0, np.asarray(index.fold)
    trains, validates = fold != VALIDATION, fold == VALIDATION
    tests = ShardReader(str(of_set.test[0])).index
    in_test = np.asarray(tests.fold) == of_set.test[1]
    found = (np.asarray(tests.areas)[in_test] > 0).sum(axis=0)
    return [
        f"**{of_set.name.capitalize()}**, {manifest.class_names[of_set.rare]}: in {has[trains].sum()} of "
        f"{trains.sum():,} images that train, in {has[validates].sum()} of {validates.sum()} that validate, in "
        f"{found[of_set.rare]} of {in_test.sum()} that test; {of_set.passes} passes."
    ]


def _table(of_set: RareSet, weights: Path, work: Path, seeds: Sequence[int], variants: Sequence[str]) -> list[str]:
    names = ShardReader(str(of_set.data)).manifest.class_names
    others = ", ".join(name for number, name in enumerate(names) if number != of_set.rare)
    lines = [
        f"| | seed | recall of {names[of_set.rare]} | at one half | alarms | at one half | recall of {others} | "
        "mean Dice | separation by mask, by head | silent validations |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    aims, trained = [], list[Trial]()
    for variant in variants:
        mine = seeds if variant == AUTO else seeds[: of_set.seeds_of.get(variant, 1)]
        trials = [_train(of_set, weights, work, variant, seed) for seed in mine]
        rows = [_row(of_set, trial, variant, seed) for trial, seed in zip(trials, mine, strict=True)]
        lines += [row for row, _ in rows]
        aims.append(f"{variant}: {sum(is_found for _, is_found in rows)} of {len(rows)} seeds")
        trained += trials
    aim = f"Recall above 0 as shipped (the aim: all of five seeds). {'; '.join(aims)}."
    return [*lines, "", f"{aim} {trained_at(trained)}"]


def _row(of_set: RareSet, trial: Trial, variant: str, seed: int) -> tuple[str, bool]:
    """Of the table, and whether the shipped decision finds the rare class at all."""
    checkpoint = load_checkpoint(trial.checkpoint)
    assert checkpoint.decision is not None, f"{trial.checkpoint} was not tuned"
    statistics = trial.statistics(*of_set.test, FLIPS)
    shipped, half = decide(statistics, checkpoint.decision), at_one_half(statistics)
    recalls = [recall(shipped, number) for number in range(len(checkpoint.class_names))]
    others = ", ".join(f"{100 * value:.0f}" for number, value in enumerate(recalls) if number != of_set.rare)
    log = trial.folder.with_name(f"{trial.folder.name}.log").read_text()
    said, validations = silent_validations(log, checkpoint.class_names[of_set.rare])
    cells = [
        *(variant, str(seed), f"{100 * recalls[of_set.rare]:.0f}", f"{100 * recall(half, of_set.rare):.0f}"),
        *(str(alarms(shipped, of_set.rare)), str(alarms(half, of_set.rare)), others),
        *(f"{100 * float(score(shipped).mean_dice):.2f}", _separations(statistics, of_set.rare)),
        f"{said} of {validations}",
    ]
    return f"| {' | '.join(cells)} |", recalls[of_set.rare] > 0


def _separations(statistics: EvaluationStatistics, number: int) -> str:
    """By the most probable pixel and by the head, in percent."""
    has = statistics.true_areas[:, number] > 0
    pixels = statistics.histograms[:, number].sum(axis=1)
    strongest = pixels.shape[1] - 1 - (pixels[:, ::-1] > 0).argmax(axis=1)
    return ", ".join(f"{100 * separation(p, has):.0f}" for p in (strongest, statistics.label_probs[:, 1 + number]))


def separation(probs: np.ndarray, has: np.ndarray) -> float:
    """How often one of those that have a class is more probable than one that has not; equal ones count half.

    Args:
        probs: (n,) quantised probabilities.
        has: (n,) bool, some of them set and some not.
    """
    difference = probs[has].astype(int)[:, None] - probs[~has].astype(int)[None, :]
    return float((np.sign(difference) + 1).mean() / 2)


def recall(outcome: Outcome, number: int) -> float:
    """Share of the images with a class that are answered with it; NaN where none has it."""
    true, predicted = (outcome.counts[:, number, kind] > 0 for kind in (TRUE, PREDICTED))
    return float((true & predicted).sum() / true.sum()) if true.any() else float("nan")


def alarms(outcome: Outcome, number: int) -> int:
    """Images without a class that are answered with it."""
    true, predicted = (outcome.counts[:, number, kind] > 0 for kind in (TRUE, PREDICTED))
    return int((predicted & ~true).sum())


def silent_validations(log: str, name: str) -> tuple[int, int]:
    """Validations of a log that name the rare class among those never answered, and all of them."""
    lines = [line for line in log.splitlines() if " validation: " in line]
    named = [re.search(r"(?<!than )never answered: ([^;]*)", line) for line in lines]
    return sum(found is not None and name in found[1].split(", ") for found in named), len(lines)


def _train(of_set: RareSet, weights: Path, work: Path, variant: str, seed: int) -> Trial:
    options = [
        *("--folds.test", "--seed", str(seed), "--runtime.workers", "0", "--budget", f"{of_set.passes}passes"),
        *("--model.encoder", ENCODER, "--model.weights", str(weights.absolute())),
        *("--model.decoder-channels", *map(str, DECODER), *VARIANTS[variant]),
    ]
    folder = work / f"{folder_name(of_set.name)}-{folder_name(variant)}-{seed}"
    return train(folder, of_set.data, "auto", options, alone=False)
