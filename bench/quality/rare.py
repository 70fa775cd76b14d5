"""A rare class: strips of which 8 of 1,000 training images have class 2; whether `--preset auto` finds it at all."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.quality.pretrained import DECODER, ENCODER
from bench.quality.trial import FLIPS, Trial, train
from data_prep.__main__ import main as shard
from steel.checkpoint import load_checkpoint
from steel.metrics.counts import PREDICTED, TRUE
from steel.metrics.scores import Outcome, decide
from steel.shards.reader import ShardReader
from steel.synthetic.dataset import synthesize

NUM_IMAGES, NUM_TEST = 1250, 200
"""Images in five folds, of which one validates; and of a set of their own, for the test."""
SHARES = (0.08, 0.008, 0.3, 0.08)
"""Of the images with each class: 10 of 1,250 have class 2, so that 8 of 1,000 are left to training."""
TEST_SHARES = (0.25,) * 4
RARE = 1
"""The class, from 0."""
PASSES = 8
SIZE = "64x400"


def run(weights: Path, work: Path, *, seeds: Sequence[int]) -> str:
    """Train on one set for every seed; the section of the report as Markdown.

    Args:
        weights: file of the encoder's pretrained weights.
        work: where data and runs go.
        seeds: of the trainings.
    """
    data, test = make_shards(work)
    index = ShardReader(str(data)).index
    has = np.asarray(index.areas)[:, RARE] > 0
    trains = ~np.isin(index.fold, (0,))
    trials = [_train(data, work / f"auto-{seed}", weights, seed) for seed in seeds]
    lines = [
        f"{trains.sum():,} synthetic strips at {SIZE} train, {has[trains].sum()} of them with class {RARE + 1}; "
        f"{(~trains).sum()} validate, {has[~trains].sum()} with it; {NUM_TEST} test, where each class is in a quarter "
        f"of the images. `--preset auto` with {ENCODER} from ImageNet weights, a decoder of "
        f"{'-'.join(map(str, DECODER))} channels and {PASSES} passes; the decision and the flips that were shipped. "
        "Recall is the share of the test images with a class that are answered with it. Validations without class "
        f"{RARE + 1}: those whose line in the log said that it is never answered.",
        "",
        f"| seed | recall of class {RARE + 1} | of the others | alarms: answered without having it | order | "
        f"validations without class {RARE + 1} |",
        "|---|---|---|---|---|---|",
    ]
    found = []
    for seed, trial in zip(seeds, trials, strict=True):
        checkpoint = load_checkpoint(trial.checkpoint)
        assert checkpoint.decision is not None, f"{trial.checkpoint} was not tuned"
        outcome = decide(trial.statistics(test, 0, FLIPS), checkpoint.decision)
        recalls = [recall(outcome, number) for number in range(len(SHARES))]
        found.append(recalls[RARE] > 0)
        others = ", ".join(f"{100 * value:.0f}" for number, value in enumerate(recalls) if number != RARE)
        order = checkpoint.provenance["config"]["phases"][0]["sampling"]["order"]
        said, validations = silent_validations(trial.folder.with_name(f"{trial.folder.name}.log").read_text())
        lines.append(
            f"| {seed} | {100 * recalls[RARE]:.0f} | {others} | {alarms(outcome, RARE)} | {order} | "
            f"{said} of {validations} |"
        )
    return "\n".join([*lines, "", f"Recall above 0: {sum(found)} of {len(found)} seeds (the aim: all of five)."])


def make_shards(work: Path) -> tuple[Path, Path]:
    """Shards for training in five folds, and those of the test in one."""
    parts = {"train": (NUM_IMAGES, SHARES, "5", 1), "test": (NUM_TEST, TEST_SHARES, "1", 2)}
    for name, (number, shares, folds, seed) in parts.items():
        if not (work / name / "manifest.json").exists():
            made = work / f"{name}-images"
            synthesize(made, number, 1, seed, class_share=shares)
            given = ("--images", str(made / "train_images"), "--labels", str(made / "train.csv"))
            if shard([*given, "--out", str(work / name), "--folds", folds, "--resize", SIZE]) != 0:
                sys.exit(1)
    return work / "train", work / "test"


def recall(outcome: Outcome, number: int) -> float:
    """Share of the images with a class that are answered with it; NaN where none has it."""
    true, predicted = (outcome.counts[:, number, kind] > 0 for kind in (TRUE, PREDICTED))
    return float((true & predicted).sum() / true.sum()) if true.any() else float("nan")


def alarms(outcome: Outcome, number: int) -> int:
    """Images without a class that are answered with it."""
    true, predicted = (outcome.counts[:, number, kind] > 0 for kind in (TRUE, PREDICTED))
    return int((predicted & ~true).sum())


def silent_validations(log: str) -> tuple[int, int]:
    """Validations of a log that name the rare class among those never answered, and all of them."""
    lines = [line for line in log.splitlines() if " validation: " in line]
    silent = [line for line in lines if f"class {RARE + 1}" in line.partition("never answered: ")[2]]
    return len(silent), len(lines)


def _train(data: Path, folder: Path, weights: Path, seed: int) -> Trial:
    options = [
        *("--folds.test", "--seed", str(seed), "--runtime.workers", "0", "--budget", f"{PASSES}passes"),
        *("--model.encoder", ENCODER, "--model.weights", str(weights.absolute())),
        *("--model.decoder-channels", *map(str, DECODER)),
    ]
    return train(folder, data, "auto", options, alone=False)
