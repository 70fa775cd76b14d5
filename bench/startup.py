"""How long programs take to start: `python -m bench.startup` writes `bench/startup.md`."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from bench.speed.run import machine
from bench.speed.worker import ROOT

ROWS = (
    ("the interpreter alone", ["-c", "pass"]),
    ("`import steel`", ["-c", "import steel"]),
    ("`steel --help`", ["-c", "import sys; from steel.cli import main; sys.exit(main())", "--help"]),
    ("`import torch`", ["-c", "import torch"]),
    ("`from steel import Predictor`", ["-c", "from steel import Predictor"]),
    ("`import train.fit`", ["-c", "import train.fit"]),
)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="that count, after one that does not")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "startup.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    times: dict[str, list[float]] = {name: [] for name, _ in ROWS}
    for turn in tqdm(range(options.repeats + 1), unit="round"):
        for name, arguments in ROWS:
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            if turn:
                times[name].append(time.perf_counter() - begun)
    lines = [
        "# Starting up",
        "",
        f"Made by `python -m bench.startup`: seconds of a whole process, medians of {options.repeats} with the "
        f"smallest and the largest, files in the page cache. {machine()}, nice {os.nice(0)}, load average {load:.1f}; "
        f"Python {sys.version.split()[0]}, torch {version('torch')}. Not measured: `steel predict` of an image, and "
        "`train.fit` to its first line and its first step.",
        "",
        "| process | s | from | to |",
        "|---|---|---|---|",
        *(f"| {n} | {statistics.median(t):.2f} | {min(t):.2f} | {max(t):.2f} |" for n, t in times.items()),
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
