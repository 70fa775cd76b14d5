"""`train.fit` whose history and tracker each take long: held_records_fit.py FOLDER ARGUMENT...

Some of rank 0's calls come back only when the other rank has taken steps that follow them. Where a step waits for the
call these never come, and it comes back after `PATIENCE_S`. Other work on the machine changes nothing about that. Each
such call leaves a line in FOLDER/held: its name, and whether those steps came.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steel.errors import run_program
from steel.tracking.history import History
from steel.tracking.items import Item, MaskedImages
from steel.tracking.queue import NullTracker
from steel.tracking.trackers import TRACKERS, TrackerKind
from train.engine import loop, validation
from train.engine.loop import Loop
from train.engine.step import TrainingState
from train.fit import main

PATIENCE_S = 15.0
FOLLOWING = 3
"""Steps that must come, after the one that a record is of, before its call returns; the loop logs a step when it has
launched the next one."""


class Holder:
    """Knows how many steps rank 1 has taken: each is a byte of a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps = folder / "steps"
        self._steps.touch()
        self._held: set[str] = set()

    def count(self) -> None:
        """A step of rank 1."""
        with self._steps.open("ab") as file:
            file.write(b".")

    def hold(self, name: str, step: int) -> None:
        """The first call of that name waits, and writes down whether what it waited for came."""
        if name in self._held:
            return
        self._held.add(name)
        deadline = time.monotonic() + PATIENCE_S
        while self._steps.stat().st_size < step + FOLLOWING and time.monotonic() < deadline:
            time.sleep(0.01)
        came = self._steps.stat().st_size >= step + FOLLOWING
        with (self._folder / "held").open("a") as file:
            file.write(f"{name}: {'came' if came else 'waited in vain'}\n")


class HeldTracker(NullTracker):
    """A tracker that answers late."""

    def __init__(self, holder: Holder, run_dir: Path) -> None:
        self._holder = holder
        self._told, self._shown = run_dir / "tracked", run_dir / "pictures"

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Of the first step, and of the first validation."""
        self._holder.hold("figures of a validation" if "val/loss" in record else "figures of a step", step)
        with self._told.open("a") as file:
            file.write(f"{step}\n")

    def show(self, item: Item, step: int) -> None:
        """Pictures of the first validation."""
        if isinstance(item, MaskedImages):
            self._holder.hold("pictures", step)
            with self._shown.open("a") as file:
                file.write(f"{len(item.images)}\n")


def hold_into(folder: Path) -> None:
    """For the rest of the process."""
    holder = Holder(folder)
    take, append, score, predict = (
        TrainingState.step,
        History.append,
        loop.validation_scores,
        validation.predict_examples,
    )
    report = Loop._report_validation
    reported: list[int] = []

    def counted(training: TrainingState, *arguments: Any) -> Any:
        sums = take(training, *arguments)
        if training.runtime.rank == 1:
            holder.count()
        return sums

    def held(history: History, record: Mapping[str, Any]) -> None:
        holder.hold(f"line of a {record['kind']}", record["global_step"])
        append(history, record)

    def reported_at(self: Loop, *arguments: Any) -> None:
        reported.append(self.state.step)
        report(self, *arguments)

    def scored(*arguments: Any) -> dict[str, Any]:
        holder.hold("scores of a validation", reported[0])
        return score(*arguments)

    def predicted(predictor: Any, decision: Any, reader: Any, rows: Sequence[int]) -> Any:
        with (folder / f"pictures-{os.environ['RANK']}").open("a") as file:
            file.write(f"{len(rows)}\n")
        return predict(predictor, decision, reader, rows)

    TrainingState.step, History.append = counted, held  # type: ignore[method-assign]
    Loop._report_validation = reported_at  # type: ignore[method-assign]
    loop.validation_scores, validation.predict_examples = scored, predicted  # type: ignore[attr-defined]
    TRACKERS["held"] = TrackerKind("late", "Held", lambda config, run_dir, *others: HeldTracker(holder, run_dir))


if __name__ == "__main__":
    hold_into(Path(sys.argv[1]))
    sys.exit(run_program(lambda: main(sys.argv[2:])))
