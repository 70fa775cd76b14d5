"""How long programs take to start: `python -m bench.startup` writes `bench/startup.md`.

Besides imports: `steel predict` of one image of 256x1600, and `train.fit` to its first line and to the end of its first
step, both with the preset `smoke` on twenty synthetic strips, which are made and trained on once beforehand.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bench.made_by import begin, fact_lines, facts_of_run
from bench.speed.worker import ROOT
from steel.commands.common import Parser, make_way
from steel.errors import run_program
from steel.option_values import positive


class Row(NamedTuple):
    """A process, and what it is watched for."""

    name: str
    arguments: list[str]
    """Of the interpreter."""
    target: float | None = None
    """The most seconds, beyond those of `import torch` where `beyond_torch` is set."""
    beyond_torch: bool = False
    reached: Callable[[Path], bool] | None = None
    """Whether what is timed has come, by the folder of everything; None waits for the end of the process."""


TORCH = "`import torch`"
STEEL = ["-c", "import sys; from steel.cli import main; sys.exit(main())"]
STRIPS, HEIGHT, WIDTH = 20, 64, 400
"""That the training rows train on."""
PATIENCE = 600
"""Seconds until a process is given up."""


def rows_of(folder: Path) -> list[Row]:
    """All rows; `folder` holds what `prepare` made."""
    training = ["-m", "train.fit", "--preset", "smoke", "--data", str(folder / "shards"), "--out", str(folder / "run")]
    training += ["--tracking.tracker", "none", "--tracking.log-every", "1"]
    predict = [*STEEL, "predict", str(folder / "trained" / "model.safetensors"), str(folder / "image")]
    return [
        Row("the interpreter alone", ["-c", "pass"]),
        Row("`import steel`", ["-c", "import steel"], 0.1),
        Row("`steel --help`", [*STEEL, "--help"]),
        Row(TORCH, ["-c", "import torch"]),
        Row("`from steel import Predictor`", ["-c", "from steel import Predictor"]),
        Row("`import train.fit`", ["-c", "import train.fit"]),
        Row("`steel predict` of one image", [*predict, "--out", str(folder / "predicted")], 4),
        Row("`train.fit` to its first line", training, 3, True, _has_spoken),
        Row("`python -m train` to its first line", ["-m", "train", *training[2:]], 3, False, _has_spoken),
        Row("`train.fit` to its first step", training, 15, True, _has_stepped),
    ]


def _has_spoken(folder: Path) -> bool:
    return (folder / "said").stat().st_size > 0


def _has_stepped(folder: Path) -> bool:
    history = folder / "run" / "history.jsonl"
    return history.exists() and '"kind": "train"' in history.read_text(encoding="utf-8")


def prepare(folder: Path) -> None:
    """Strips, shards, and a model trained on them; an image of full size."""
    strips, large = folder / "strips", folder / "large"
    synth = [*STEEL, "synth", str(strips), "--num-train", str(STRIPS), "--num-test", "1"]
    synth += ["--height", str(HEIGHT), "--width", str(WIDTH)]
    shards = ["--images", f"{strips}/train_images", "--labels", f"{strips}/train.csv", "--out", str(folder / "shards")]
    out = ["--data", str(folder / "shards"), "--out", str(folder / "trained"), "--tracking.tracker", "none"]
    for line in (
        synth,
        [*STEEL, "synth", str(large), "--num-train", "1", "--num-test", "1"],
        ["-m", "data_prep", *shards],
        ["-m", "train.fit", "--preset", "smoke", *out],
    ):
        subprocess.run([sys.executable, *line], cwd=ROOT, check=True, capture_output=True)
    (large / "test_images").rename(folder / "image")


def measure(row: Row, folder: Path) -> float:
    """Seconds from the start of the process to its end, or to what it is watched for; then it is killed."""
    run = folder / "run"
    for made in (run, folder / "predicted"):
        shutil.rmtree(made, ignore_errors=True)
    with (folder / "said").open("wb") as said:
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, *row.arguments], cwd=ROOT, stdout=said, stderr=said)
        try:
            while process.poll() is None and not (row.reached is not None and row.reached(folder)):
                if time.perf_counter() - begun > PATIENCE:
                    raise RuntimeError(f"{row.name}: nothing in {PATIENCE} s")
                time.sleep(0.002)
            seconds = time.perf_counter() - begun
            if process.poll():
                raise RuntimeError(f"{row.name} failed: {(folder / 'said').read_text()[-500:]}")
        finally:
            process.kill()
            process.wait()
    return seconds


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="that count, after one that does not")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "startup.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    make_way([], [str(options.out)])
    begun = begin()
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        prepare(folder)
        rows = rows_of(folder)
        times: dict[str, list[float]] = {row.name: [] for row in rows}
        for turn in tqdm(range(options.repeats + 1), unit="round"):
            for row in rows:
                seconds = measure(row, folder)
                if turn:
                    times[row.name].append(seconds)
    facts = facts_of_run("bench.startup", begun, ("torch",)) | {"repeats": options.repeats}
    options.out.write_text(page(rows, times, facts), encoding="utf-8")
    print(options.out.read_text())


def page(rows: list[Row], times: dict[str, list[float]], facts: Mapping[str, Any]) -> str:
    """The document."""
    torch = statistics.median(times[TORCH])
    words = (
        "Seconds of a process, medians of the repeats, after one that does not count, with the smallest and the "
        "largest; files in the page cache. Training is of the preset `smoke` on "
        f"{STRIPS} synthetic strips of {HEIGHT}x{WIDTH}, `steel predict` of one of 256x1600 by what that shipped: "
        "small, so that starting is what is timed."
    )
    lines = [
        "# Starting up",
        "",
        textwrap.fill(words, 120, break_on_hyphens=False),
        "",
        *fact_lines(facts),
        "",
        f"| process | s | from | to | beyond {TORCH} | target |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        median = statistics.median(times[row.name])
        counted = median - torch if row.beyond_torch else median
        beyond = f"{median - torch:.2f}" if row.beyond_torch else ""
        target = ""
        if row.target is not None:
            words = "reached" if counted <= row.target else "**missed**"
            target = f"at most {row.target:g} s{' beyond it' if row.beyond_torch else ''}: {words}"
        low, high = min(times[row.name]), max(times[row.name])
        lines.append(f"| {row.name} | {median:.2f} | {low:.2f} | {high:.2f} | {beyond} | {target} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
