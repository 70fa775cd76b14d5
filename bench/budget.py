"""Whether `--budget` keeps its time: `python -m bench.budget` writes `bench/budget.md`.

`python -m train --preset auto --budget TIME` on synthetic strips, from random weights, for one time and number of
processes after the other. The clock of a budget starts at the first step, as docs/auto.md says: imports and the
measuring of the pace come before it; validations, the choice of the model and the report are in its time.
"""

import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
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
BEGINS = "phase 1 of "
"""How the line begins that a run writes once its length is settled, before its first step."""


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
    before: float
    """Seconds until the first step: imports, and the measuring of the pace."""
    took: float
    """Seconds from there to the end of the process."""


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("--budgets", nargs="+", default=["3m"], metavar="TIME", help="(default: 3m)")
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
    words += ["--phases.0.micro-batch", "4", "--phases.1.micro-batch", "4"]  # batches of 8, which two processes share
    log, begun = out.with_name(f"{out.name}.log"), time.perf_counter()
    first_step: list[float] = []

    def watch() -> None:
        if not first_step and BEGINS in log.read_text(encoding="utf-8", errors="replace"):
            first_step.append(time.perf_counter())

    said = _run(words, log, watch)
    ended = time.perf_counter()
    if not first_step:
        raise ValueError(f"the training never said that it begins: {said[-500:]}")
    return Row(budget, asked, processes, *told(said), first_step[0] - begun, ended - first_step[0])


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


def _run(words: Sequence[str], log: Path, watch: Callable[[], None] = lambda: None) -> str:
    """What a process writes.

    Args:
        words: of the interpreter's command line.
        log: where it writes to.
        watch: called ten times a second while it runs.

    Raises:
        InputError: it has failed, as where a budget is too short; with its last line.
    """
    with (
        log.open("wb") as file,
        subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file) as process,
    ):
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.1)
        except BaseException:
            process.terminate()  # on a signal, or Ctrl-C: it saves its state and ends
            raise
    said = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise InputError(f"{' '.join(words[:2])} failed: {said.strip().splitlines()[-1]}")
    return said


def page(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The document."""
    words = (
        "Trainings by `python -m train --preset auto --budget TIME`, from random weights, on "
        f"{NUM_IMAGES} synthetic strips of {HEIGHT}x{WIDTH}, of which three fifths train. The clock of a budget starts "
        "at the first step; imports and the measuring of the pace come before. In its time are all steps, validations, "
        "the choice of the model and the report, up to the end of the process. A run plans for nine tenths of it."
    )
    lines = [
        "# A time to keep",
        "",
        textwrap.fill(words, 120, break_on_hyphens=False),
        "",
        *fact_lines(facts),
        "",
        "| budget | processes | passes | before the first step, s | foreseen | took, s | of the budget | target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = row.took / row.asked
        target = f"at most 100%: {'reached' if share <= 1 else '**missed**'}"
        timed = f"{row.before:.0f}", row.foreseen, f"{row.took:.0f}", f"{share:.0%}"
        lines.append(f"| {' | '.join([row.budget, str(row.processes), row.chosen, *timed, target])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
