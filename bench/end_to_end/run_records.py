"""What a finished training says of itself, in its run folder and on its standard error."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steel.errors import InputError
from steel.tracking.history import History


class PhaseRecord(NamedTuple):
    """The training steps of one phase."""

    name: str
    epochs: float
    crop: tuple[int, int]
    """Height and width; 0, 0 for whole images."""
    seconds: float
    """Without validations, from the images and the speed of each record of the history."""
    images_per_second: float
    data_wait: float
    """The share of the time in which steps waited for samples, 0 to 1."""


class RunRecord(NamedTuple):
    """A finished training."""

    about: str
    """Network, images and their roles, in a sentence."""
    processes: int
    device: str
    precision: str
    phases: tuple[PhaseRecord, ...]
    spent: Mapping[str, int]
    """Whole seconds, from 1 on, by kind of work besides training steps: validation, compiling and the like."""
    compiled: tuple[str, ...]
    """What compiling has brought, a sentence a phase."""
    mean_dice: float
    """Of the validation fold, cross-fitted; its thresholds were tuned there."""
    mean_dice_all_empty: float
    """Of answering nothing."""
    mean_dice_positive: float | None


def read_run(folder: Path, said: str) -> RunRecord:
    """The record of a run.

    Args:
        folder: of the run.
        said: all that it has written to standard error.

    Raises:
        InputError: it has not finished.
        ValueError: it does not say what a run says.
    """
    state = json.loads((folder / "status.json").read_text())["state"]
    if state != "finished":
        raise InputError(f"{folder}: the run was {state}; give the same command again")
    phases = json.loads((folder / "config.json").read_text())["config"]["phases"]
    validation = json.loads((folder / "validation.json").read_text())
    started = _find(r"^(\d+) process(?:es)? on (\S+), mixed precision: (\S+)$", said)
    return RunRecord(
        about=_find(r"^training (.* kept for a test)$", said)[1],
        processes=int(started[1]),
        device=started[2],
        precision=started[3],
        phases=tuple(phase_records(phases, History(folder / "history.jsonl").records())),
        spent=_spent(_find(r"^took [\d:]+(?:, of which (.*))?$", said)[1] or ""),
        compiled=tuple(re.findall(r"^(phase .*: (?:not )?compiled: .*)$", said, re.MULTILINE)),
        mean_dice=validation["cross_fitted"]["mean_dice"],
        mean_dice_all_empty=validation["mean_dice_all_empty"],
        mean_dice_positive=validation["mean_dice_positive"],
    )


def phase_records(phases: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[PhaseRecord]:
    """Time and speed of each phase.

    Args:
        phases: of the run's config.json.
        records: of its history. A record's speed is of the steps since the one before it, or since a validation between
            the two; all of them are taken to have had it. One that has none is taken to be as fast as the others.
    """
    found = []
    for number, phase in enumerate(phases):
        images, timed_images, seconds, waited, before = 0, 0, 0.0, 0.0, 0
        for record in records:
            if record["kind"] != "train" or record["phase"] != number:
                continue
            new = (record["step"] - before) * phase["batch_size"]
            images, before = images + new, record["step"]
            if record["images_per_second"]:
                timed_images += new
                took = new / record["images_per_second"]
                seconds += took
                waited += took * record["data_wait"]
        speed = timed_images / seconds if seconds else 0.0
        took = images / speed if speed else 0.0
        wait = waited / seconds if seconds else 0.0
        found.append(PhaseRecord(phase["name"], phase["epochs"], tuple(phase["crop"]), took, speed, wait))
    return found


def _spent(words: str) -> dict[str, int]:
    """Seconds by kind, of `validation 1:02, threshold tuning 0:05`."""
    spent = {}
    for kind, duration in re.findall(r"([a-z][a-z ]*) (\d+(?::\d\d)+)", words):
        seconds = 0
        for part in duration.split(":"):
            seconds = 60 * seconds + int(part)
        spent[kind] = seconds
    return spent


def _find(pattern: str, said: str) -> re.Match[str]:
    found = re.search(pattern, said, re.MULTILINE)
    if found is None:
        raise ValueError(f"the run has not said {pattern}")
    return found
