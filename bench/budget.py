"""Whether `--budget` keeps its time: `python -m bench.budget` writes `bench/budget.md`.

`python -m train --preset auto --budget TIME` on synthetic strips, from random weights, for one time and number of
processes after the other. What counts is the whole process: imports, the measuring of the pace, validations, the choice
of the model and the report are in its time.
"""

import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bench.made_by import begin, fact_lines, facts_of_run
from bench.speed.worker import ROOT
from steel.commands.common import Parser, make_way
from steel.errors import InputError, run_program
from steel.option_values import positive
from train.budget import parse_budget

STEEL = ["-c", "import sys; from steel.cli import main; sys.exit(main())"]
NUM_IMAGES, HEIGHT, WIDTH = 150, 128, 400
"""Strips, of which a fifth validate and a fifth are kept for a test."""
TARGET = 1.0
"""The most of its budget that a process may take."""


class Row(NamedTuple):
    """A training that is over."""

    budget: str
    """As it was asked for."""
    asked: float
    """That in seconds."""
    processes: int
    chosen: str
    """Passes, as the run says."""
    foreseen: str
    """Time that these were to take, from the first step on."""
    took: float
    """Seconds of the whole process."""


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--budgets", nargs="+", default=["2m", "5m"], metavar="TIME", help="(default: 2m 5m)")
    parser.add_argument("--processes", type=positive, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "budget.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    asked = {budget: seconds_of(budget) for budget in options.budgets}
    make_way([], [str(options.out)])
    begun = begin()
    todo = [(budget, processes) for processes in options.processes for budget in options.budgets]
    with tempfile.TemporaryDirectory(prefix="budget-") as name:
        folder = Path(name)
        data = prepare(folder)
        rows = [
            measure(data, folder / f"run-{budget}-{processes}", budget, asked[budget], processes)
            for budget, processes in tqdm(todo, unit="training")
        ]
    options.out.write_text(page(rows, facts_of_run("bench.budget", begun, ("torch",))), encoding="utf-8")
    print(options.out.read_text())


def seconds_of(budget: str) -> float:
    """Of a time as `--budget` takes it.

    Raises:
        InputError: it is none.
    """
    seconds = parse_budget(budget).seconds
    if seconds is None:
        raise InputError(f"--budgets {budget}: give a time, as 2m")
    return seconds


def prepare(folder: Path) -> Path:
    """Shards of strips."""
    strips, shards = folder / "strips", folder / "shards"
    size = ["--height", str(HEIGHT), "--width", str(WIDTH)]
    _run([*STEEL, "synth", str(strips), "--num-train", str(NUM_IMAGES), "--num-test", "1", *size], folder / "synth.log")
    given = ["--images", f"{strips}/train_images", "--labels", f"{strips}/train.csv", "--out", str(shards)]
    _run(["-m", "data_prep", *given], folder / "data_prep.log")
    return shards


def measure(data: Path, out: Path, budget: str, asked: float, processes: int) -> Row:
    """Train within a budget."""
    words = ["-m", "train", "--preset", "auto", "--budget", budget, "--processes", str(processes)]
    words += ["--data", str(data), "--out", str(out), "--model.weights", "none", "--tracking.tracker", "none"]
    begun = time.perf_counter()
    said = _run(words, out.with_name(f"{out.name}.log"))
    took = time.perf_counter() - begun
    return Row(budget, asked, processes, *told(said), took)


def told(said: str) -> tuple[str, str]:
    """The passes that a run has chosen, and the time that they were to take.

    Args:
        said: all that it has written.

    Raises:
        ValueError: it does not say so.
    """
    found = re.search(r"auto: budget: (\S+) pass.* a validation come to (\S+) of it", said)
    if found is None:
        raise ValueError(f"the training says nothing of its budget: {said[-500:]}")
    return found[1], found[2]


def _run(words: Sequence[str], log: Path) -> str:
    """What a process writes.

    Raises:
        InputError: it has failed, as where a budget is too short; with its last line.
    """
    with log.open("wb") as file:
        code = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    said = log.read_text(encoding="utf-8")
    if code:
        raise InputError(f"{' '.join(words[:2])} failed: {said.strip().splitlines()[-1]}")
    return said


def page(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The document."""
    words = (
        "Trainings by `python -m train --preset auto --budget TIME`, from random weights, on "
        f"{NUM_IMAGES} synthetic strips of {HEIGHT}x{WIDTH}, of which three fifths train. The time is of the whole "
        "process: imports, the measuring of the pace, all steps, validations, the choice of the model, the report. "
        "What the run foresees is counted from its first step on, nine tenths of the budget at most."
    )
    lines = [
        "# A time to keep",
        "",
        textwrap.fill(words, 120, break_on_hyphens=False),
        "",
        *fact_lines(facts),
        "",
        "| budget | processes | passes | foreseen | took, s | of the budget | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = row.took / row.asked
        target = f"at most {TARGET:.0%}: {'reached' if share <= TARGET else '**missed**'}"
        cells = row.budget, str(row.processes), row.chosen, row.foreseen, f"{row.took:.0f}", f"{share:.0%}", target
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
