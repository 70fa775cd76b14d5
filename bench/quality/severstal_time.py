"""How long the full Severstal set takes, from a sample of its images: shards, training and evaluation."""

import csv
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.quality.severstal_recipe import Recipe, asked_of_shards, make_shards
from bench.quality.trial import COMMIT, VALIDATION
from steel.distributed.runtime import start
from steel.errors import told_url
from steel.model.network import UnifiedModel
from steel.shards.reader import ShardReader
from steel.storage import write_text
from train.arguments import FitArguments, parse_fit
from train.auto_recipe import auto_recipe
from train.budget import seconds_of
from train.engine.batch_plan import plan_phases
from train.engine.measured_pace import MeasuredPace
from train.engine.pace import Work
from train.engine.weight_initialisation import find_first_weights
from train.fit_to_time import measure_run
from train.fitting import find_machine_class, read_facts
from train.live_line import LiveLine
from train.preparation import network_for
from train.presets import AUTO
from train.recipe_facts import DataFacts

FEW_IMAGES, MORE_IMAGES = 12, 72
"""Images of the two samples that the time is told from: what more of them take is what each takes."""
MOST_TUNED = 4
"""Times the tuning of the sample's validation images that tuning on more of them is taken to cost: it counts bins."""


@dataclass(frozen=True)
class Durations:
    """Seconds that the parts of one split take, from a sample."""

    sharding: float
    training: float
    evaluation: float


def expected(source: Path, work: Path, recipe: Recipe, names: Sequence[str], *, begins: bool) -> Durations:
    """Shard two samples, and time some steps and a validation on the larger; what was timed before is not timed again.

    Args:
        source: Kaggle's folder.
        work: keeps the samples' shards, and what was timed.
        recipe: of the trainings.
        names: of all images, the samples' first.
        begins: a training is to begin, so that its first weights are looked for before anything that takes its time.

    Raises:
        InputError: the first weights are not to be had.
    """
    asked = asked_of_shards(source, recipe, names)
    sizes = [min(number, len(names)) for number in (FEW_IMAGES, MORE_IMAGES)]
    samples = [work / f"sample-{number}" for number in sizes]
    few, more = (
        _shard_sample(source, folder, recipe, names[:number], asked)
        for folder, number in zip(samples, sizes, strict=True)
    )
    each = max(0.0, more - few) / max(1, sizes[1] - sizes[0])
    sharding = few + each * (len(names) - sizes[0])
    arguments = _arguments(samples[1] / "shards", work, recipe, len(names))
    if begins:
        find_weights(arguments)

    def measure() -> Sequence[float]:
        print(
            f"timing some steps and a validation of the preset {recipe.preset} on {sizes[1]} images: about a minute on "
            "a GPU, minutes on a CPU",
            flush=True,
        )
        return astuple(Durations(sharding, *_time_run(arguments, len(names))))

    return Durations(*_once(work / "expected.json", ["--preset", recipe.preset, *asked, _machine(), COMMIT], measure))


def find_weights(arguments: FitArguments) -> None:
    """See that a training would find its first weights, and that they fit its network.

    Raises:
        InputError: they are not to be had, or do not fit.
    """
    config, manifest = arguments.config, ShardReader(arguments.data).manifest
    print(f"looking for the first weights of {config.model.encoder}: {told_url(config.model.weights)}", flush=True)
    find_first_weights(UnifiedModel(network_for(config, manifest)), config.model, None, manifest)


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


def _arguments(data: Path, work: Path, recipe: Recipe, num_images: int) -> FitArguments:
    """Of a training on a sample that is as long as that on all images."""
    arguments = parse_fit("bench.quality", [*recipe.words, "--data", str(data), "--out", str(work / "none")])
    if recipe.preset != AUTO:
        return arguments
    config = auto_recipe(of_whole(read_facts(ShardReader(str(data))), num_images), find_machine_class())
    return replace(
        arguments, config=replace(config, model=replace(config.model, weights=arguments.config.model.weights))
    )


def _time_run(arguments: FitArguments, num_images: int) -> tuple[float, float]:
    """Seconds of the training on all images, and of the evaluation of its test images, by steps on a sample."""
    runtime = start(arguments.config.runtime.precision)
    with LiveLine(shown=False) as live:
        of_sample, pace = measure_run(arguments, runtime, live)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the GPU is the training's from here on
    num = np.bincount(np.asarray(ShardReader(arguments.data).index.fold), minlength=2)
    num_test, num_validation = round(0.1 * num_images), round(0.18 * num_images)  # of the classic split
    work_to_do, real = scaled(of_sample, pace, num_images - num_test - num_validation, num_validation / num[VALIDATION])
    evaluation = real.predicting / num_validation * num_test * of_sample.final_views
    processes = max(1, torch.cuda.device_count())  # as many as `python -m train` starts
    return seconds_of(work_to_do, real) / processes, evaluation


def _shard_sample(source: Path, folder: Path, recipe: Recipe, names: Sequence[str], asked: Sequence[str]) -> float:
    """Seconds that sharding some of the images takes; the shards stay."""

    def shard_anew() -> Sequence[float]:
        shutil.rmtree(folder, ignore_errors=True)  # one that was stopped in between says nothing of the time
        print(f"sharding a sample of {len(names)} images", flush=True)
        _copy_sample(source, folder, names)
        begun = time.perf_counter()
        make_shards(folder / "images", folder / "train.csv", folder / "shards", recipe, ("--folds", "3"))
        return [time.perf_counter() - begun]

    return _once(folder / "seconds.json", asked, shard_anew)[0]


def _copy_sample(source: Path, folder: Path, names: Sequence[str]) -> None:
    (folder / "images").mkdir(parents=True)
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "train_images" / name, folder / "images" / name)
    chosen = set(names)
    with (source / "train.csv").open(newline="") as file, (folder / "train.csv").open("w", newline="") as out:
        lines = csv.reader(file)
        kept = [line for line in lines if lines.line_num == 1 or (line and line[0].partition("_")[0] in chosen)]
        csv.writer(out).writerows(kept)


def _once(path: Path, asked: Sequence[str], measure: Callable[[], Sequence[float]]) -> Sequence[float]:
    """Seconds that `measure` gives, or gave at an earlier start for what was asked alike: `path` keeps both."""
    if path.exists():
        noted = json.loads(path.read_text(encoding="utf-8"))
        if noted["asked"] == list(asked):
            return noted["seconds"]
    seconds = measure()
    write_text(path, json.dumps({"asked": list(asked), "seconds": list(seconds)}, indent=1) + "\n")
    return seconds


def _machine() -> str:
    """What steps take their time by, in words."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([*gpus, f"{len(os.sched_getaffinity(0))} cores"])
