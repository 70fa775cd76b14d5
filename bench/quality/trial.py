"""One trained model of a comparison: train it as a user does, keep what evaluation needs, score it later."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.made_by import commit
from steel.checkpoint import load_checkpoint
from steel.decision import default_decision
from steel.distributed.runtime import start
from steel.errors import InputError
from steel.gates import GATES
from steel.inference.predictor import Predictor
from steel.metrics.scores import Outcome, decide
from steel.metrics.statistics import EvaluationStatistics
from steel.shards.reader import ShardReader
from steel.shards.selection import rows_in
from steel.thresholds.tuning import tune_thresholds
from train.engine.run_inference import collect_statistics

ROOT = Path(__file__).parents[2]
VALIDATION, TEST = 0, 1
COMMIT = commit()
"""Of the code that this process has loaded, whatever is checked out before its trainings end."""
FLIPS = ("hflip", "vflip", "hvflip")
Program = Literal["train.fit", "train.crossval"]


@dataclass(frozen=True)
class Trial:
    """What is left of a training: statistics of single images, from which every score can be computed."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The weights that were shipped."""
        return self.folder / "model.safetensors"

    @property
    def last_checkpoint(self) -> Path:
        """The weights at the end, whichever were shipped."""
        return self.folder / "last.safetensors"

    @property
    def seconds(self) -> float:
        """Wall-clock time of the training, validations and choice of weights included."""
        return self._noted()["seconds"]

    @property
    def processor_seconds(self) -> float:
        """What it took of all cores together, which other work on the machine hardly changes."""
        return self._noted()["processor_seconds"]

    @property
    def commit(self) -> str:
        """Of the project, when it was trained; empty where nobody noted it."""
        return self._noted().get("commit", "")

    def _noted(self) -> dict[str, Any]:
        return json.loads((self.folder / "trial.json").read_text())

    def is_done(self, asked: Sequence[str]) -> bool:
        """Whether `finish` was called on its folder.

        Args:
            asked: what the training is asked for, in words.

        Raises:
            InputError: another training is there, or one of which nobody noted what it was asked for.
        """
        if not (self.folder / "trial.json").exists():
            return False
        _refuse_other(self.folder, "a training that was", self._noted().get("asked", ["nobody noted how"]), asked)
        return True

    def finish(self, seconds: float, processor_seconds: float | None = None, asked: Sequence[str] = ()) -> None:
        """Note what was asked for and what the training took, in seconds, and with that, that it is complete."""
        noted: dict[str, Any] = {"seconds": round(seconds, 1), "commit": COMMIT, "asked": list(asked)}
        if processor_seconds is not None:
            noted["processor_seconds"] = round(processor_seconds, 1)
        (self.folder / "trial.json").write_text(json.dumps(noted) + "\n")

    def statistics(self, data: Path, fold: int, tta: tuple[str, ...], *, last: bool = False) -> EvaluationStatistics:
        """Of one fold of the shards, by the weights that were shipped or the last ones; computed once."""
        path = self.folder / f"{'last-' * last}fold-{fold}-{len(tta)}-flips.npz"
        if not path.exists():
            checkpoint = self.last_checkpoint if last else self.checkpoint
            evaluate(checkpoint, ShardReader(str(data)), fold, tta).save(path)
        statistics = EvaluationStatistics.load(path)
        return replace(statistics, groups=np.asarray(ShardReader(str(data)).index.group)[statistics.rows])


def claim(work: Path, asked: Sequence[str], *, is_begun: bool, what: str = "results", note: str = "asked.json") -> None:
    """Note what is asked for of a folder, or see that what is there was asked for alike.

    Args:
        work: the folder.
        asked: in words.
        is_begun: something of it is there.
        what: is asked for; in the plural.
        note: the name of the file that keeps the words.

    Raises:
        InputError: it was asked for otherwise, or nobody noted how.
    """
    path = work / note
    if not is_begun:
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(asked), indent=1) + "\n", encoding="utf-8")
    elif path.exists():
        _refuse_other(work, f"{what} that were", json.loads(path.read_text(encoding="utf-8")), asked)
    else:
        raise InputError(f"{work}: holds {what} of which nobody noted what they were asked for; name another --work")


def _refuse_other(folder: Path, what: str, noted: Sequence[str], asked: Sequence[str]) -> None:
    noted, asked = _with_names_of_files(noted), _with_names_of_files(asked)
    if noted != asked:
        other = [*(word for word in asked if word not in noted), *(word for word in noted if word not in asked)]
        how = " ".join(other) or "in another order"
        raise InputError(f"{folder}: holds {what} asked for otherwise ({how}); name another --work, or remove that")


def _with_names_of_files(words: Sequence[str]) -> list[str]:
    """Wherever they lie."""
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


def trained_at(trials: Iterable[Trial]) -> str:
    """A sentence: the commits at which trainings were made, which are older than the one that scores them."""
    by_folder = {trial.folder: trial.commit for trial in trials}
    commits, unknown = sorted({*by_folder.values()} - {""}), [*by_folder.values()].count("")
    told = [f"at {', '.join(commits)}"] if commits else []
    told += [f"{unknown} of them at a commit that was not noted"] if unknown else []
    return f"Trained {', '.join(told)}."


def folder_name(words: str) -> str:
    """A variant's name as one of a folder."""
    return "-".join(words.replace(",", "").split())


def both_phases(option: str, *value: str) -> tuple[str, ...]:
    """The command line's words that give both phases of a preset one value."""
    return tuple(word for phase in (0, 1) for word in (f"--phases.{phase}.{option}", *value))


def train(
    folder: Path,
    data: Path,
    preset: str,
    options: Sequence[str],
    *,
    alone: bool = True,
    program: Program = "train.fit",
) -> Trial:
    """Train one model; what was finished before is not done again.

    Args:
        folder: of the run.
        data: its shards.
        preset: its preset.
        options: on top of that.
        alone: `accelerate launch` on all cores or the GPU; else one process, for trainings that share the machine.
        program: `train.crossval` validates each of its members on another fold.

    Raises:
        InputError: a signal stopped it; what it has learned is saved, and the same call goes on.
    """
    trial, asked = Trial(folder), ["--preset", preset, *options]
    if trial.is_done(asked):
        return trial
    launch = ("-m", "accelerate.commands.launch", "--config_file", launch_config()) if alone else ()
    command = [
        *(sys.executable, *launch, "-m", program, "--preset", preset),
        *("--data", str(data), "--out", str(folder)),
        *(("--folds.validation", str(VALIDATION)) if program == "train.fit" else ()),
        *("--folds.test", str(TEST), "--tracking.tracker", "none"),
        *options,
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun, used = time.perf_counter(), _processor_seconds()
    try:
        with folder.with_name(f"{folder.name}.log").open("a") as log:
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True, env=env)
    finally:
        spent = _add_attempt(folder, time.perf_counter() - begun, _processor_seconds() - used)
    if not trial.checkpoint.exists():  # programs that a signal stops end well, too, once their state is saved
        raise InputError(f"{folder}: the training was stopped before its end; the same command goes on")
    trial.finish(*spent, asked)
    return trial


def _add_attempt(folder: Path, seconds: float, processor_seconds: float) -> tuple[float, float]:
    """What a training has taken in all its attempts: kept in its folder, as the next one goes on from its state."""
    path = folder / "attempts.json"
    before = json.loads(path.read_text()) if path.exists() else (0.0, 0.0)
    spent = before[0] + seconds, before[1] + processor_seconds
    if folder.exists():
        path.write_text(json.dumps(spent) + "\n")
    return spent


def _processor_seconds() -> float:
    """Of all processes that were started from this one and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def launch_config() -> str:
    """The launch configuration of this machine."""
    import torch

    return str(ROOT / "launch" / "accelerate" / ("gpu1.yaml" if torch.cuda.is_available() else "cpu2.yaml"))


def evaluate(checkpoint: Path, reader: ShardReader, fold: int, tta: tuple[str, ...]) -> EvaluationStatistics:
    """What a checkpoint says of every image of one fold."""
    runtime = start("auto")
    predictor = Predictor.from_checkpoint(
        load_checkpoint(checkpoint), device=runtime.device, tta=tta, precision=runtime.accelerator.mixed_precision
    )
    rows = rows_in(reader, [fold], "--fold")
    return collect_statistics(predictor, reader, rows, runtime, decision=None, workers=1)


def tuned(
    trial: Trial, data: Path, gates: tuple[str, ...] = tuple(GATES), *, tta: tuple[str, ...] = FLIPS, last: bool = False
) -> Outcome:
    """The test fold under the decision found on the validation fold, by the shipped weights or the last ones."""
    validation, test = (trial.statistics(data, fold, tta, last=last) for fold in (VALIDATION, TEST))
    found = tune_thresholds(validation, training_areas=training_areas(data), tta=tta, gates=gates)
    return decide(test, found.decision)


def training_areas(data: Path) -> np.ndarray:
    """(M, C) pixels of each class in the images of the shards that neither validate nor test."""
    index = ShardReader(str(data)).index
    return np.asarray(index.areas)[~np.isin(index.fold, (VALIDATION, TEST))]


def raw(trial: Trial, data: Path, tta: tuple[str, ...] = (), *, last: bool = False) -> Outcome:
    """The test fold under thresholds of one half."""
    return at_one_half(trial.statistics(data, TEST, tta, last=last))


def at_one_half(statistics: EvaluationStatistics) -> Outcome:
    """Images under thresholds of one half."""
    return decide(statistics, default_decision(statistics.num_classes))
