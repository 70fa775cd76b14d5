"""What a large image takes: `python -m bench.large_image` writes `bench/large_image.md`.

`steel predict` of one image of 20000x4096 in tiles, on a CPU, with torch and with the exported graph of the same
untrained network: the most memory that the process has held, and its time, the program's start included.
"""

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from bench.end_to_end.program import run
from bench.made_by import begin, fact_lines, facts_of_run, median_and_spread
from bench.serve import make_models, name_of
from bench.speed.worker import ROOT
from data_prep.arguments import parse_size
from steel.commands.common import Parser, make_way
from steel.errors import run_program
from steel.option_values import positive

MOST_GB = 3.0
"""What such an image may take, in units of 10**9 bytes."""


class Taken(NamedTuple):
    """By one process."""

    gigabytes: float
    """Its largest resident set, in units of 10**9 bytes."""
    seconds: float


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.large_image", description=__doc__)
    parser.add_argument("--encoder", default="resnet18", help="of the untrained U-Net")
    parser.add_argument("--size", type=parse_size, default=(20000, 4096), metavar="HxW", help="of the image")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="that count, after one that does not")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "large_image.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    make_way([], [str(options.out)])
    begun = begin()
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        image, models = make_image(Path(folder), *options.size), make_models(Path(folder), options.encoder)
        found: dict[str, list[Taken]] = {name_of(model): [] for model in models}
        for turn, model in tqdm([*product(range(options.repeats + 1), models)], unit="prediction"):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                taken = predict(model, image, Path(out))
            if turn:
                found[name_of(model)].append(taken)
    facts = facts_of_run("bench.large_image", begun, ("torch", "onnxruntime")) | {"repeats": options.repeats}
    options.out.write_text(page(found, facts, options), encoding="utf-8")
    print(options.out.read_text())


def page(found: Mapping[str, Sequence[Taken]], facts: Mapping[str, Any], options: argparse.Namespace) -> str:
    """The document: of each model by name, what every repeat took."""
    height, width = options.size
    words = (
        f"`steel predict` of one gray image of {height}x{width}, as PNG, by an untrained U-Net on {options.encoder}; "
        "plain view, tiles as by default. The program's start is included. Medians over the repeats, after one that "
        "does not count, with the smallest and the largest in brackets; both models take turns. The target is one of "
        "all repeats."
    )
    lines = ["# A large image", "", textwrap.fill(words, 120), "", *fact_lines(facts), ""]
    lines += ["| model | most memory, GB | target | time, s | megapixels/s |", "|---|---|---|---|---|"]
    for name, taken in found.items():
        memory, seconds = zip(*taken, strict=True)
        reached = "reached" if max(memory) < MOST_GB else "**missed**"
        speed = median_and_spread([height * width / 1e6 / each for each in seconds], ".2f")
        lines.append(
            f"| {name} | {median_and_spread(memory, '.2f')} | under {MOST_GB:g} GB: {reached} | "
            f"{median_and_spread(seconds, '.0f')} | {speed} |"
        )
    return "\n".join(lines) + "\n"


def make_image(folder: Path, height: int, width: int) -> Path:
    """A gray image of smooth noise as PNG."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 180, (height // 16 + 1, width // 16 + 1), np.uint8)
    path = folder / "large.png"
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    return path


def predict(model: Path, image: Path, out: Path) -> Taken:
    """What `steel predict` of the image takes."""
    line = [sys.executable, "-m", "steel.cli", "predict", str(model), str(image), "--out", str(out)]
    ended = run(line)
    if ended.code:
        sys.exit(f"error: steel predict ended with exit code {ended.code}")
    return Taken(ended.peak_bytes / 1e9, ended.seconds)


if __name__ == "__main__":
    sys.exit(run_program(main))
