"""The full Severstal set: trains the preset on the published split and on grouped folds, beside what was published.

Everything goes on where it was when the same command is given again. How long all of it takes is said first.
"""

import csv
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from bench.quality.trial import TEST, VALIDATION, claim
from data_prep.__main__ import main as shard
from steel.distributed.runtime import start
from steel.errors import InputError
from steel.labels.classes import ANY
from steel.labels.load import load_labels
from steel.shards.reader import ShardReader
from train.arguments import parse_fit
from train.auto_recipe import auto_recipe
from train.budget import seconds_of
from train.engine.batch_plan import plan_phases
from train.engine.measured_pace import MeasuredPace
from train.engine.pace import Work
from train.engine.run_folder import RunFolder
from train.fit_to_time import measure_run
from train.fitting import find_machine_class, read_facts
from train.live_line import LiveLine, format_duration
from train.presets import AUTO
from train.recipe_facts import DataFacts
from train.second_round.programs import Programs, ProgramsEnded

SPLITS: Mapping[str, Sequence[str]] = {
    "classic": ("--split", "severstal-classic"),
    "grouped": ("--folds", "10"),
}
"""The published split, whose parts share near-duplicates, and folds that keep those together. Fold 0 validates, fold 1
tests."""
FEW_IMAGES, MORE_IMAGES = 12, 72
"""Images of the two samples that the time is told from: what more of them take is what each takes."""
MOST_TUNED = 4
"""Times the tuning of the sample's validation images that tuning on more of them is taken to cost: it counts bins."""
PUBLISHED = (
    "| six networks, on the classic test images | 0.9275 | 0.9442 / 0.9826 / 0.8047 / 0.9787 | | "
    "0.611 / 0.655 / 0.699 / 0.788 | 0.921 | 0.936 | |",
    "| the best local figure, on a random fifth of the images | 0.951 | | | | | | |",
)
"""Rows of the table: of the cascade of two classifiers and four U-Nets, and of what else was published."""


@dataclass(frozen=True)
class Recipe:
    """How each of the two is trained."""

    preset: str
    weights: str | None
    """As `--model.weights`; the preset's own when None."""
    size: str | None
    """HxW that images are stored at, for rehearsals; their own when None."""

    @property
    def is_rehearsal(self) -> bool:
        """Its figures say nothing of the real thing."""
        return self.preset in ("smoke", "demo") or self.size is not None

    @property
    def words(self) -> list[str]:
        """Of the command line."""
        weights = [] if self.weights is None else ["--model.weights", self.weights]
        return ["--preset", self.preset, *weights, "--tracking.tracker", "none"]


@dataclass(frozen=True)
class Durations:
    """Seconds that the parts of one split take, from a sample."""

    sharding: float
    training: float
    evaluation: float


def run(source: Path, work: Path, recipe: Recipe, *, splits: Sequence[str]) -> str:
    """Shard, train and evaluate on each split; the section of the report as Markdown.

    Args:
        source: Kaggle's folder, with train.csv and train_images/.
        work: where shards and runs go.
        recipe: of the trainings.
        splits: names in `SPLITS`.

    Raises:
        InputError: the folder is not Kaggle's; or `work` holds what was asked for with another recipe or other images.
        SystemExit: a program has failed, with its exit code; or was stopped by a signal, 0 where it has saved.
    """
    names = _image_names(source)
    claim(work, _asked(source, recipe, names), is_begun=any(_is_begun(work, split) for split in SPLITS))
    to_do = [split for split in splits if not _is_done(work, split)]
    if to_do:
        each = expected(source, work, recipe, names)
        print(announce(each, to_do, names, work), flush=True)
    rows, notes = [], []
    for split in splits:
        data, trained, judged = _folders(work, split)
        if not (data / "manifest.json").exists():
            _shard(source / "train_images", source / "train.csv", data, recipe, SPLITS[split])
        if not _is_done(work, split):
            _call("train", *recipe.words, "--data", str(data), "--out", str(trained))
            if (RunFolder(trained).status() or {}).get("state") != "finished":  # it alone was told to stop, and saved
                _leave(0)
            judge = ("--checkpoint", str(trained / "model.safetensors"), "--data", str(data), "--folds", str(TEST))
            _call("train.evaluate", *judge, "--out", str(judged))
        metrics = json.loads((judged / "metrics.json").read_text())
        num = np.bincount(np.asarray(ShardReader(str(data)).index.fold), minlength=2)
        notes.append(
            f"{split}: {num.sum() - num[:2].sum():,} images train, {num[VALIDATION]:,} validate, {num[1]:,} test"
        )
        rows.append(row(f"this, {split} test images", metrics))
    return "\n".join([*_about(recipe, notes, [split for split in SPLITS if split not in splits]), "", *table(rows)])


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


def expected(source: Path, work: Path, recipe: Recipe, names: Sequence[str]) -> Durations:
    """Shard two samples and time some steps and a validation on the larger."""
    sizes = [min(number, len(names)) for number in (FEW_IMAGES, MORE_IMAGES)]
    few, more = (_shard_sample(source, work / f"sample-{number}", recipe, names[:number]) for number in sizes)
    each = max(0.0, more - few) / max(1, sizes[1] - sizes[0])
    data = work / f"sample-{sizes[1]}" / "shards"
    arguments = parse_fit("bench.quality", [*recipe.words, "--data", str(data), "--out", str(work / "none")])
    if recipe.preset == AUTO:
        facts = of_whole(read_facts(ShardReader(str(data))), len(names))
        arguments = replace(arguments, config=auto_recipe(facts, find_machine_class()))
    runtime = start(arguments.config.runtime.precision)
    with LiveLine(shown=False) as live:
        of_sample, pace = measure_run(arguments, runtime, live)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the GPU is the training's from here on
    num = np.bincount(np.asarray(ShardReader(str(data)).index.fold), minlength=2)
    num_test, num_validation = round(0.1 * len(names)), round(0.18 * len(names))  # of the classic split
    work_to_do, real = scaled(of_sample, pace, len(names) - num_test - num_validation, num_validation / num[VALIDATION])
    views = of_sample.final_views
    evaluation = real.predicting / num_validation * num_test * views
    processes = max(1, torch.cuda.device_count())  # as many as `python -m train` starts
    return Durations(few + each * (len(names) - sizes[0]), seconds_of(work_to_do, real) / processes, evaluation)


def of_whole(sample: DataFacts, images: int) -> DataFacts:
    """What a set of so many images would say of itself, were it all like a sample of it."""
    times = images / sample.images
    per_class = tuple(round(times * number) for number in sample.images_per_class)
    return replace(sample, images=images, clean=round(times * sample.clean), images_per_class=per_class)


def scaled(work: Work, pace: MeasuredPace, num_train: int, times: float) -> tuple[Work, MeasuredPace]:
    """The same run on so many training images, and on so many times as many validation images."""
    phases = [plan.phase for plan in work.plans]
    every = work.plans[0].validation_interval / work.plans[0].epoch_length
    plans = plan_phases(phases, [num_train] * len(phases), every, rank=0, world=1)
    longer = replace(pace, predicting=pace.predicting * times, tuning=pace.tuning * min(MOST_TUNED, times))
    return replace(work, plans=plans), longer


def _shard_sample(source: Path, folder: Path, recipe: Recipe, names: Sequence[str]) -> float:
    """Seconds that sharding some of the images takes."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "train_images" / name, folder / "images" / name)
    chosen = set(names)
    with (source / "train.csv").open(newline="") as file, (folder / "train.csv").open("w", newline="") as out:
        lines = csv.reader(file)
        kept = [line for line in lines if lines.line_num == 1 or (line and line[0].partition("_")[0] in chosen)]
        csv.writer(out).writerows(kept)
    begun = time.perf_counter()
    _shard(folder / "images", folder / "train.csv", folder / "shards", recipe, ("--folds", "3"))
    return time.perf_counter() - begun


def _shard(images: Path, labels: Path, out: Path, recipe: Recipe, options: Sequence[str]) -> None:
    size = () if recipe.size is None else ("--resize", recipe.size)
    if shard(["--images", str(images), "--labels", str(labels), "--out", str(out), *size, *options]) != 0:
        sys.exit(1)


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


def _is_begun(work: Path, split: str) -> bool:
    return any(folder.exists() for folder in _folders(work, split))


def _asked(source: Path, recipe: Recipe, names: Sequence[str]) -> list[str]:
    """What shards, runs and scores in a folder follow from."""
    size = [] if recipe.size is None else ["--size", recipe.size]
    labels = hashlib.sha256((source / "train.csv").read_bytes()).hexdigest()
    return [*recipe.words, *size, f"of {len(names):,} images", f"with a train.csv of sha256 {labels}"]


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
