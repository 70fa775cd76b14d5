"""The full Severstal set: trains the preset on the published split and on grouped folds, beside what was published.

Everything goes on where it was when the same command is given again. How long all of it takes is said first.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bench.quality.severstal_recipe import Recipe, asked_of_shards, make_shards
from bench.quality.severstal_time import Durations, expected
from bench.quality.trial import TEST, VALIDATION, claim
from steel.errors import InputError
from steel.labels.classes import ANY
from steel.labels.load import load_labels
from steel.shards.reader import ShardReader
from train.engine.run_folder import RunFolder
from train.live_line import format_duration
from train.second_round.programs import Programs, ProgramsEnded

SPLITS: Mapping[str, Sequence[str]] = {
    "classic": ("--split", "severstal-classic"),
    "grouped": ("--folds", "10"),
}
"""The published split, whose parts share near-duplicates, and folds that keep those together. Fold 0 validates, fold 1
tests."""
PUBLISHED = (
    "| six networks, on the classic test images | 0.9275 | 0.9442 / 0.9826 / 0.8047 / 0.9787 | | "
    "0.611 / 0.655 / 0.699 / 0.788 | 0.921 | 0.936 | |",
    "| the best local figure, on a random fifth of the images | 0.951 | | | | | | |",
)
"""Rows of the table: of the cascade of two classifiers and four U-Nets, and of what else was published."""


def run(source: Path, work: Path, recipe: Recipe, *, splits: Sequence[str]) -> str:
    """Shard, train and evaluate on each split; the section of the report as Markdown.

    Args:
        source: Kaggle's folder, with train.csv and train_images/.
        work: where shards and runs go.
        recipe: of the trainings.
        splits: names in `SPLITS`.

    Raises:
        InputError: the folder is not Kaggle's; or `work` holds shards of other images, or runs of another recipe; or
            the first weights are not to be had.
        SystemExit: a program has failed, with its exit code; or was stopped by a signal, 0 where it has saved.
    """
    print(f"reading {source / 'train.csv'}", flush=True)
    names = _image_names(source)
    _claim(source, work, recipe, names)
    to_do = [split for split in splits if not _is_done(work, split)]
    if to_do:
        each = expected(source, work, recipe, names, begins=not all(_has_begun(work, split) for split in to_do))
        print(announce(each, to_do, names, work), flush=True)
    rows, notes = [], []
    for split in splits:
        data, trained, judged = _folders(work, split)
        if not (data / "manifest.json").exists():
            print(f"{split}: sharding all images into {data}", flush=True)
            make_shards(source / "train_images", source / "train.csv", data, recipe, SPLITS[split])
        if not _is_done(work, split):
            _train_and_judge(split, data, trained, judged, recipe)
        metrics = json.loads((judged / "metrics.json").read_text())
        num = np.bincount(np.asarray(ShardReader(str(data)).index.fold), minlength=2)
        notes.append(
            f"{split}: {num.sum() - num[:2].sum():,} images train, {num[VALIDATION]:,} validate, {num[1]:,} test"
        )
        rows.append(row(f"this, {split} test images", metrics))
    return "\n".join([*_about(recipe, notes, [split for split in SPLITS if split not in splits]), "", *table(rows)])


def _train_and_judge(split: str, data: Path, trained: Path, judged: Path, recipe: Recipe) -> None:
    print(f"{split}: training in {trained}", flush=True)
    _call("train", *recipe.words, "--data", str(data), "--out", str(trained))
    if (RunFolder(trained).status() or {}).get("state") != "finished":  # it alone was told to stop, and saved
        _leave(0)
    print(f"{split}: evaluating on the test images, into {judged}", flush=True)
    judge = ("--checkpoint", str(trained / "model.safetensors"), "--data", str(data), "--folds", str(TEST))
    _call("train.evaluate", *judge, "--out", str(judged))


def table(rows: Sequence[str]) -> list[str]:
    """Ours above what was published."""
    return [
        "| | mean Dice | of each class | answering nothing | positive Dice of each class | F1 of any defect | "
        "F1 of the classes | positive Dice |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        *PUBLISHED,
    ]


def row(name: str, metrics: Mapping[str, Any]) -> str:
    """A line of the table from `metrics.json`."""
    labels = metrics["classification"]
    of_classes = [labels[name]["f1"] for name in labels if name != ANY]
    known = [f1 for f1 in of_classes if f1 is not None]
    cells = [
        _figure(metrics["mean_dice"]),
        " / ".join(map(_figure, metrics["dice_per_class"].values())),
        _figure(metrics["mean_dice_all_empty"]),
        " / ".join(_figure(value, 3) for value in metrics["dice_positive_per_class"].values()),
        _figure(labels[ANY]["f1"], 3),
        _figure(sum(known) / len(known) if known else None, 3),
        _figure(metrics["mean_dice_positive"], 3),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def announce(each: Durations, to_do: Sequence[str], names: Sequence[str], work: Path) -> str:
    """What is to be done and how long it takes, in a sentence."""
    unsharded = sum(not (_folders(work, split)[0] / "manifest.json").exists() for split in to_do)
    parts = {
        "shards": unsharded * each.sharding,
        "training": len(to_do) * each.training,
        "evaluation": len(to_do) * each.evaluation,
    }
    told = ", ".join(f"{part} {format_duration(seconds)}" for part, seconds in parts.items())
    return (
        f"{len(names):,} images, {' and '.join(to_do)}: about {format_duration(sum(parts.values()))} at the pace of a "
        f"sample ({told}), less what earlier attempts have trained; stop it whenever you like, the same command goes on"
    )


def _image_names(source: Path) -> list[str]:
    """Of all images, in random order, always the same. What is wrong with the table is told before hours are spent."""
    for name in ("train.csv", "train_images"):
        if not (source / name).exists():
            raise InputError(f"--data {source}: has no {name}; give the folder of Kaggle's unpacked Severstal data")
    names = [record.image_id for record in load_labels(source / "train_images", source / "train.csv").images]
    np.random.default_rng(0).shuffle(names)
    return names


def _folders(work: Path, split: str) -> tuple[Path, Path, Path]:
    """Of the shards, the run, and its scores on the test images."""
    return work / f"shards-{split}", work / f"run-{split}", work / f"test-{split}"


def _claim(source: Path, work: Path, recipe: Recipe, names: Sequence[str]) -> None:
    """See that the shards that are there are of these images, and the runs of this recipe, which shards do not follow
    from: they serve another recipe as well."""
    of_shards = asked_of_shards(source, recipe, names)
    has_shards = any(_folders(work, split)[0].exists() for split in SPLITS)
    claim(work, of_shards, is_begun=has_shards, what="shards", note="asked-shards.json")
    has_runs = any(_has_begun(work, split) for split in SPLITS)
    claim(work, [*recipe.words, *of_shards], is_begun=has_runs, what="runs (run-*, test-*)", note="asked-runs.json")


def _has_begun(work: Path, split: str) -> bool:
    """Whether its training goes on, for it has saved a state, or is over."""
    _, trained, judged = _folders(work, split)
    return judged.exists() or RunFolder(trained).begun_config() is not None


def _is_done(work: Path, split: str) -> bool:
    return (_folders(work, split)[2] / "metrics.json").exists()


def _call(module: str, *words: str) -> None:
    """Run a program of ours, whose lines go to the screen and which is handed what signals come."""
    with Programs().handing_on() as programs:
        try:
            programs.run(module, words)
        except ProgramsEnded as ended:
            if programs.received is None:
                sys.exit(ended.code)
            _leave(ended.code)


def _leave(code: int) -> NoReturn:
    print("interrupted; the same command goes on from here", flush=True)
    sys.exit(code)


def _about(recipe: Recipe, notes: Sequence[str], missing: Sequence[str]) -> list[str]:
    weights = "its own" if recipe.weights is None else Path(recipe.weights).name
    size = "" if recipe.size is None else f", images stored at {recipe.size}"
    lines = [
        f"Preset {recipe.preset}, first weights: {weights}{size}. {'; '.join(notes)}. Scores are of the test images, "
        "with the thresholds that were tuned on the validation images. F1 is the classification head's; that of the "
        "classes is their mean."
    ]
    return lines + [f"Missing: {', '.join(missing)}."] * bool(missing)


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
