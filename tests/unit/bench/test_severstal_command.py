"""The full Severstal set by one command: its plumbing on few small strips, and its figures by hand."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train.__main__
import train.evaluate
from bench.quality import cli as quality
from bench.quality import severstal, severstal_recipe, severstal_time
from bench.quality.severstal import SPLITS, announce, row, run, table
from bench.quality.severstal_recipe import Recipe
from bench.quality.severstal_time import Durations, expected, of_whole, scaled
from data_prep.__main__ import main as shard
from steel.config import Config
from steel.errors import InputError
from steel.shards.reader import ShardReader
from steel.synthetic.dataset import synthesize
from steel.validation_errors import ValidationErrors
from tests.numerics.quick import quicken
from train.arguments import FitArguments
from train.budget import seconds_of
from train.engine.batch_plan import plan_phases
from train.engine.measured_pace import MeasuredPace
from train.engine.pace import Work
from train.engine.run_folder import RunFolder
from train.presets import SEVERSTAL
from train.recipe_facts import DataFacts

REAL_DATA = os.environ.get("STEEL_REAL_DATA")
SMOKE = Recipe("smoke", "none", None)
OF_CLASS = {"accuracy": 1.0, "precision": 1.0, "recall": 1.0}
METRICS = {
    "mean_dice": 0.93, "mean_dice_all_empty": 0.85879, "mean_dice_positive": 0.7,
    "dice_per_class": {"1": 0.94, "2": 0.98}, "dice_positive_per_class": {"1": 0.6, "2": None},
    "classification": {"any": {**OF_CLASS, "f1": 0.92}, "1": {**OF_CLASS, "f1": 0.9}, "2": {**OF_CLASS, "f1": 0.8}},
}  # fmt: skip


def test_a_row_has_the_figures_of_metrics_json() -> None:
    told = row("this", METRICS)
    assert told == "| this | 0.9300 | 0.9400 / 0.9800 | 0.8588 | 0.600 / - | 0.920 | 0.850 | 0.700 |"
    assert {line.count("|") for line in table([told])} == {9}


def test_a_sample_is_scaled_to_the_set() -> None:
    phases = [replace(SEVERSTAL.phases[0], epochs=2), replace(SEVERSTAL.phases[1], epochs=1)]
    sample = Work(plan_phases(phases, [40, 40], 1.0, rank=0, world=1), (1, 1), 1, final_validations=1, final_views=4)
    work, pace = scaled(sample, MeasuredPace((0.01, 0.05), predicting=2.0, tuning=1.0), 6400, times=10)
    # 12,800 crops, 6,400 whole images; three validations of 20 s and 4 s of tuning; at the end four views and a tuning.
    assert seconds_of(work, pace) == pytest.approx(128 + 320 + 3 * (20 + 4) + 4 * 20 + 4)


def test_auto_is_timed_at_the_length_that_the_whole_set_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None
) -> None:
    """And not at that of so few images as the sample has, which is 100 passes in batches of 8."""
    asked: list[Config] = []

    def measure(arguments: FitArguments, *_: object) -> tuple[Work, MeasuredPace]:
        asked.append(arguments.config)
        plans = plan_phases(arguments.config.phases, [16, 16], 1.0, rank=0, world=1)
        return Work(plans, (1, 1), 1, final_validations=1, final_views=4), MeasuredPace((1.0, 1.0), 1.0, 1.0)

    monkeypatch.setattr(severstal_time, "measure_run", measure)
    monkeypatch.setattr(severstal_recipe, "shard", lambda words: shard([*words, "--workers", "1"]))
    monkeypatch.setattr(severstal_time, "MORE_IMAGES", 24)
    synthesize(tmp_path, 24, 1, 0, class_share=(0.25,) * 4, workers=1, height=32, width=200)
    names = sorted(path.name for path in (tmp_path / "train_images").iterdir())
    expected(tmp_path, tmp_path, Recipe("auto", None, None), [*names, *["more"] * (12_568 - 24)], begins=False)
    assert [(phase.epochs, phase.batch_size) for phase in asked[0].phases] == [(30, 64), (8, 64)]
    assert asked[0].validation.every_epochs == 2


def test_a_sample_stands_for_a_set_of_more_images() -> None:
    facts = DataFacts(72, 34, ("a", "b", "c"), (36, 1, 0), (256, 1600), (256, 1600))
    assert of_whole(facts, 12_600) == replace(facts, images=12_600, clean=5_950, images_per_class=(6_300, 175, 0))


@pytest.mark.parametrize("weights", ["https://example.org/resnet34.pth", "hub", "here.pth"])
def test_weights_reach_the_training_as_they_are_given(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a file by its full path."""
    recipes: list[Recipe] = []

    def take(data: Path, work: Path, recipe: Recipe, *, splits: list[str]) -> str:
        recipes.append(recipe)
        return ""

    monkeypatch.setattr(severstal, "run", take)
    monkeypatch.chdir(tmp_path)
    Path("here.pth").touch()
    words = ["severstal", "--data", "d", "--preset", "smoke", "--weights", weights, "--work", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["bench.quality", *words])
    assert quality.main() == 0
    assert recipes[0].weights == (str(tmp_path / "here.pth") if weights == "here.pth" else weights)


def test_the_time_is_told_for_what_is_left(tmp_path: Path) -> None:
    each, names = Durations(sharding=600, training=3600, evaluation=60), ["a.jpg"] * 12568
    told = announce(each, ["classic", "grouped"], names, tmp_path)
    assert told.startswith("12,568 images, classic and grouped: about 2:22:00 at the pace of a sample")
    (tmp_path / "shards-grouped").mkdir()
    (tmp_path / "shards-grouped" / "manifest.json").touch()
    assert "about 1:01:00 at" in announce(each, ["grouped"], names, tmp_path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no train\.csv; give the folder of Kaggle's"):
        run(tmp_path, tmp_path, SMOKE, splits=["classic"])


def test_labels_without_an_image_are_told_before_anything_is_timed(tmp_path: Path) -> None:
    synthesize(tmp_path / "data", 4, 1, 0, class_share=(0.25,) * 4, workers=1, height=32, width=200)
    first = (tmp_path / "data" / "train.csv").read_text().splitlines()[1].partition(",")[0]
    (tmp_path / "data" / "train_images" / first).unlink()
    with pytest.raises(ValidationErrors, match=rf"without an image.*{re.escape(first)}"):
        run(tmp_path / "data", tmp_path / "work", SMOKE, splits=["classic"])
    assert not (tmp_path / "work").exists()


def test_both_splits_are_sharded_of_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published one by its shares of the images, the grouped one in ten folds that no duplicates straddle."""
    data, called = tmp_path / "data", []
    synthesize(data, 60, 1, 0, class_share=(0.25,) * 4, workers=1, height=32, width=200)
    copies = twice(data)

    def call(module: str, *words: str) -> None:
        called.append((module, words[words.index("--data") + 1]))
        judged = Path(words[words.index("--out") + 1])
        judged.mkdir()
        if module == "train":
            RunFolder(judged).end("finished")
        else:
            (judged / "metrics.json").write_text(json.dumps(METRICS))
            assert words[words.index("--folds") + 1] == "1"

    monkeypatch.setattr(severstal, "_call", call)
    monkeypatch.setattr(severstal_recipe, "shard", lambda words: shard([*words, "--workers", "1"]))
    monkeypatch.setattr(severstal, "expected", lambda *_, begins: Durations(1, 1, 1))
    text = run(data, tmp_path, SMOKE, splits=list(SPLITS))
    shards = {split: tmp_path / f"shards-{split}" for split in ("classic", "grouped")}
    assert called == [(module, str(path)) for path in shards.values() for module in ("train", "train.evaluate")]
    fold_of = {}
    for split, path in shards.items():
        index = ShardReader(str(path)).index
        fold_of[split] = {index.image_id(row): int(index.fold[row]) for row in range(len(index))}
    assert fold_of["classic"].keys() == fold_of["grouped"].keys() == {*copies, *copies.values()}
    assert np.bincount(list(fold_of["classic"].values())).tolist() == [22, 12, 86]  # 18, 10 and 72 % of 120
    assert set(fold_of["grouped"].values()) == set(range(10))
    straddling = {split: sum(folds[a] != folds[b] for a, b in copies.items()) for split, folds in fold_of.items()}
    assert straddling["grouped"] == 0 < straddling["classic"]  # as published, duplicates or not
    assert "classic: 86 images train, 22 validate, 12 test; grouped: " in text and "Missing" not in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| this")] == [
        "| this, classic test images",
        "| this, grouped test images",
    ]
    for name, value, what in (("size", "64x400", "shards"), ("preset", "severstal", "runs")):  # after a rehearsal, say
        with pytest.raises(
            InputError, match=rf"holds {what} .*that were asked for otherwise \(.*{value}.*another --work"
        ):
            run(data, tmp_path, replace(SMOKE, **{name: value}), splits=["grouped"])
    (data / "train.csv").write_text((data / "train.csv").read_text().rpartition("\n")[0].rpartition("\n")[0] + "\n")
    with pytest.raises(InputError, match=r"asked for otherwise \(with a train\.csv of sha256 "):
        run(data, tmp_path, SMOKE, splits=["classic"])


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders of shards that are made of the 60 images in `data`, in which nothing is timed."""
    made: list[str] = []

    def note(words: list[str]) -> int:
        out = Path(words[words.index("--out") + 1])
        made.append(str(out.relative_to(tmp_path / "work")))
        return shard([*words, "--workers", "1"])

    monkeypatch.setattr(severstal_recipe, "shard", note)
    monkeypatch.setattr(severstal_time, "MORE_IMAGES", 24)
    synthesize(tmp_path / "data", 60, 1, 0, class_share=(0.25,) * 4, workers=1, height=32, width=200)
    return made


SAMPLES = ["sample-12/shards", "sample-24/shards"]


def test_weights_that_cannot_be_had_are_told_before_all_is_sharded(
    tmp_path: Path, sharded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And shards, which do not follow from them, are taken for others, where no run has begun."""
    monkeypatch.setattr(severstal_time, "_time_run", lambda *_: (1.0, 1.0))
    data, work = tmp_path / "data", tmp_path / "work"
    with pytest.raises(InputError, match="no such file"):
        run(data, work, replace(SMOKE, weights=str(tmp_path / "nope.pth")), splits=["classic"])
    assert sharded == SAMPLES
    monkeypatch.setattr(severstal, "_call", fails)
    for weights in ("none", "hub"):  # the hub's are not looked for: this is of shards that are there
        monkeypatch.setattr(severstal_time, "find_weights", lambda _: None)
        with pytest.raises(SystemExit):
            run(data, work, replace(SMOKE, weights=weights), splits=["classic"])
    assert sharded == [*SAMPLES, "shards-classic"]


def fails(module: str, *words: str) -> None:
    """As a training that does not get as far as a state."""
    RunFolder(words[words.index("--out") + 1]).root.mkdir(exist_ok=True)
    raise SystemExit(2)


def test_a_time_that_was_told_is_not_measured_anew(
    tmp_path: Path, sharded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But at another recipe; and each long stage is told before it begins."""
    data, work, timed = tmp_path / "data", tmp_path / "work", []

    def time_run(arguments: FitArguments, num_images: int) -> tuple[float, float]:
        timed.append(arguments.config.preset)
        if timed == ["smoke"]:
            raise KeyboardInterrupt
        return 60.0, 30.0

    monkeypatch.setattr(severstal_time, "_time_run", time_run)
    names = severstal._image_names(data)
    with pytest.raises(KeyboardInterrupt):
        expected(data, work, SMOKE, names, begins=True)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")][-2:] == [
        "looking for the first weights of resnet18",
        "timing some steps and a validation of the preset smoke on 24 images",
    ]
    told = [expected(data, work, SMOKE, names, begins=True) for _ in range(2)]
    assert told[0] == told[1] and (told[0].training, told[0].evaluation) == (60, 30)
    assert sharded == SAMPLES and timed == ["smoke", "smoke"]
    expected(data, work, replace(SMOKE, weights="hub"), names, begins=False)  # as fast as any
    assert timed == ["smoke", "smoke"]
    expected(data, work, Recipe("demo", "none", None), names, begins=False)
    assert timed == ["smoke", "smoke", "demo"] and sharded == SAMPLES
    expected(data, work, replace(SMOKE, size="16x100"), names, begins=False)
    assert sharded == [*SAMPLES, *SAMPLES]


TRAINS = """
import json, os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
status = out / "status.json"

def end(state):
    values = {"state": state, "reason": "", "attempt": 1, "pid": os.getpid(), "host": "", "time": ""}
    status.write_text(json.dumps(values))
    sys.exit(0)

def save(number, frame):
    time.sleep(0.6)  # beyond the quarter of a second that subprocess.run leaves a program after Ctrl-C
    end("interrupted")

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
if status.exists():
    end("finished")
out.mkdir()
(out.parent / "pid").write_text(str(os.getpid()))
(out.parent / "begun").touch()
time.sleep(60)
"""
"""Trains until it is told to stop, and to the end the second time."""
JUDGES = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
(out / "metrics.json").write_text(json.dumps(METRICS))
"""


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C is heeded, which a worker of pytest-xdist ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "to_training_alone"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_a_signal_lets_the_training_save_and_the_same_command_goes_on(
    number: signal.Signals,
    to_training_alone: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A training that has saved returns 0, and nothing is judged before it has finished."""
    programs = tmp_path / "programs" / "train"
    programs.mkdir(parents=True)
    (programs / "__init__.py").touch()  # or the real one, further down the path, comes first
    (programs / "__main__.py").write_text(TRAINS)
    (programs / "evaluate.py").write_text(f"METRICS = {METRICS!r}\n{JUDGES}")
    monkeypatch.chdir(programs.parent)  # where `python -m` looks first
    monkeypatch.setattr(severstal_recipe, "shard", lambda words: shard([*words, "--workers", "1"]))
    monkeypatch.setattr(severstal, "expected", lambda *_, begins: Durations(1, 1, 1))
    data, work = tmp_path / "data", tmp_path / "work"
    synthesize(data, 60, 1, 0, class_share=(0.25,) * 4, workers=1, height=32, width=200)

    def stop() -> None:
        while not (work / "begun").exists():
            time.sleep(0.01)
        os.kill(int((work / "pid").read_text()) if to_training_alone else os.getpid(), number)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(SystemExit) as left:
        run(data, work, SMOKE, splits=["classic"])
    thread.join()
    assert left.value.code == 0
    assert capsys.readouterr().out.endswith("\ninterrupted; the same command goes on from here\n")
    status = RunFolder(work / "run-classic").status()
    assert status is not None and status["state"] == "interrupted" and not (work / "test-classic").exists()
    assert row("this, classic test images", METRICS) in run(data, work, SMOKE, splits=["classic"])


def twice(data: Path) -> dict[str, str]:
    """Each training image once more under another name, with the same labels; the names of both."""
    images, labels = data / "train_images", data / "train.csv"
    copies = {path.name: f"copy-{path.name}" for path in sorted(images.iterdir())}
    for name, copy in copies.items():
        shutil.copy(images / name, images / copy)
    header, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([header, *rows, *(f"copy-{row}" for row in rows)]) + "\n")
    return copies


def in_this_process(module: str, *words: str) -> None:
    program = {"train": train.__main__.main, "train.evaluate": train.evaluate.main}[module]
    extra = ["--cpu", "--runtime.workers", "0"] if module == "train" else ["--workers", "0"]
    assert program([*words, *extra]) == 0


@pytest.mark.usefixtures("fresh_accelerate", "emulated_bf16")
def test_strips_are_sharded_trained_and_judged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    monkeypatch.setattr(severstal, "_call", in_this_process)
    monkeypatch.setattr(severstal_recipe, "shard", lambda words: shard([*words, "--workers", "1"]))
    monkeypatch.setattr(severstal_time, "MORE_IMAGES", 24)
    monkeypatch.setattr("train.engine.measured_pace.SECONDS", 0.0)
    synthesize(tmp_path / "data", 60, 1, 0, class_share=(0.25,) * 4, workers=1, height=32, width=200)
    images = tmp_path / "data" / "train_images"
    (images / ".ipynb_checkpoints").mkdir()
    with (tmp_path / "data" / "train.csv").open("a") as file:
        file.write("\n")
    text = run(tmp_path / "data", tmp_path, SMOKE, splits=["classic"])
    said = capsys.readouterr().out
    assert re.search(r"60 images, classic: about [\d:]+ at the pace of a sample \(shards [\d:]+, training ", said)
    assert "classic: 43 images train, 11 validate, 6 test" in text and "Missing: grouped." in text
    metrics = json.loads((tmp_path / "test-classic" / "metrics.json").read_text())
    assert metrics["images"] == 6 and row("this, classic test images", metrics) in text
    assert "| six networks, on the classic test images | 0.9275 |" in text
    (images / ".DS_Store").touch()  # as whoever looks into the folder leaves
    assert run(tmp_path / "data", tmp_path, SMOKE, splits=["classic"]) == text
    assert "about" not in capsys.readouterr().out  # nothing was left to do


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a quarter of an hour beside other work
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.skipif(REAL_DATA is None, reason="STEEL_REAL_DATA is not set")
@pytest.mark.parametrize(
    ("split", "images"), [("classic", "31 images train, 8 validate, 5 test"), ("grouped", "3[5-7] images train, ")]
)
def test_real_strips_at_smoke_size(split: str, images: str, tmp_path: Path) -> None:
    assert REAL_DATA is not None
    source = tmp_path / "kaggle"
    shutil.copytree(Path(REAL_DATA) / "severstal_sample", source)
    text = run(source, tmp_path, replace(SMOKE, size="64x400"), splits=[split])
    assert re.search(rf"images stored at 64x400\. {split}: {images}", text)
    assert f"| this, {split} test images | 0." in text
