"""A whole training as users start it, on synthetic strips: `python -m bench.end_to_end` writes `bench/end_to_end.md`.

Strips (`steel synth`) and shards (`data_prep`) are made once; then `python -m train` trains on them anew, once compiled
and once not, while `nvidia-smi` tells power and clocks. What follows `--` goes to training: on a CPU, what shrinks it.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.end_to_end.page import NUM_IMAGES, SIZE, Row, tables
from bench.end_to_end.program import run
from bench.end_to_end.run_records import RunRecord, read_run
from bench.gpu_samples import parse_cards, sampled
from bench.made_by import begin, fact_lines, facts_of_run
from bench.speed.worker import ROOT
from data_prep.arguments import parse_size
from steel.commands.common import Parser, make_way
from steel.errors import InputError, counted, run_program
from steel.option_values import positive
from train.presets import AUTO

HEAD = (
    "# A whole training",
    "",
    "See [README.md](README.md) for how. Medians over the repeats, with the smallest and the largest in brackets.",
    "",
)
OURS = ("--data", "--out", "--preset", "--runtime.compile", "--model.weights")
"""Options of training that this program gives."""
LAST_LINES = 20
"""Of a failed training's log are shown."""


class FailedError(Exception):
    """A program has failed, and what it said is on the screen."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code if code > 0 else 1
        """This program's exit code."""


def main() -> int:
    """Entry point; returns the exit code."""
    options, begun = _parse(), begin()
    try:
        making = make_data(options)
        if options.repeats > 1:
            for compile in options.compile:
                train(options, compile)
        rows = [train(options, compile) for _ in range(options.repeats) for compile in options.compile]
    except FailedError as error:
        return error.code
    facts = facts_of_run("bench.end_to_end", begun, ("torch",)) | about(options, rows[0].record, making)
    lines = [*HEAD, *fact_lines(facts), "", *tables(rows, options.images, options.size)]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out.read_text())
    return 0


def make_data(options: argparse.Namespace) -> dict[str, float]:
    """Make what is missing of strips and shards; the seconds of each, with those of stopped attempts."""
    strips, shards = options.work / "strips", options.work / "shards"
    height, width = map(str, options.size)
    lines = {
        "steel synth": ["steel.cli", "synth", str(strips), "--num-train", str(options.images)],
        "data_prep": ["data_prep", "--images", f"{strips}/train_images", "--labels", f"{strips}/train.csv"],
    }
    lines["steel synth"] += ["--height", height, "--width", width]
    lines["data_prep"] += ["--out", str(shards)]
    options.work.mkdir(parents=True, exist_ok=True)
    noted = options.work / "seconds.json"
    fresh: dict[str, Any] = {"seconds": dict.fromkeys(lines, 0.0), "done": []}
    made = json.loads(noted.read_text()) if noted.exists() else fresh
    for name, line in lines.items():
        if name in made["done"]:
            continue
        print(f"{name}: {options.images:,} strips in {options.work}", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        try:
            code = run([sys.executable, "-m", *line]).code
            made["done"] += [name] * (code == 0)
        finally:
            made["seconds"][name] += time.perf_counter() - begun
            noted.write_text(json.dumps(made) + "\n")
        if code:
            raise FailedError(code)
    return made["seconds"]


def train(options: argparse.Namespace, compile: str) -> Row:
    """Train from the start, with nothing left of earlier runs, in a process of its own.

    Raises:
        FailedError: it failed; its last lines have been shown.
    """
    out, caches, log = (options.work / f"{name}-{compile}" for name in ("train", "caches", "log"))
    for folder in (out, caches):  # decoded samples and compiled code, too: a training would find those of another
        shutil.rmtree(folder, ignore_errors=True)
    words = [*training_words(options, compile), "--data", str(options.work / "shards"), "--out", str(out)]
    words += ["--runtime.cache-dir", str(caches), *options.training]
    print(f"training, compile {compile}: what it says is in {log}", file=sys.stderr, flush=True)
    samples = options.work / f"gpu-{compile}.csv"
    with sampled(samples):
        ended = run([sys.executable, "-m", "train", *words], log, TORCHINDUCTOR_CACHE_DIR=str(caches / "compiled"))
    said = log.read_text(errors="replace")
    shutil.rmtree(caches, ignore_errors=True)
    if ended.code == 0:
        record = read_run(out, said)
        on_gpu = record.device.startswith("cuda")
        return Row(compile, ended, record, parse_cards(samples.read_text())[: record.processes] if on_gpu else ())
    for line in said.splitlines()[-LAST_LINES:]:
        print(line, file=sys.stderr)
    print(f"error: training, compile {compile}, ended with exit code {ended.code}; all it said: {log}", file=sys.stderr)
    raise FailedError(ended.code)


def training_words(options: argparse.Namespace, compile: str) -> list[str]:
    """Of the command line, but for what names this machine's folders and what the user adds."""
    words = ["--preset", options.preset, "--runtime.compile", compile, "--tracking.tracker", "none"]
    return words + (["--model.weights", options.weights] if options.weights != "preset" else [])


def about(options: argparse.Namespace, first: RunRecord, making: Mapping[str, float]) -> dict[str, str]:
    """What was done on what, in words by name."""
    shards = sum(path.stat().st_size for path in (options.work / "shards").glob("*.tar"))
    return {
        "repeats": f"{options.repeats} of each, in turn, after one of each that does not count"
        if options.repeats > 1
        else "1 of each, and none before it: no spread is known",
        "data": f"{options.images:,} strips of {options.size[0]}x{options.size[1]}, made by `steel synth` in "
        f"{making['steel synth']:,.1f} s; {shards / 1e6:,.0f} MB of shards, made of them by `data_prep` in "
        f"{making['data_prep']:,.1f} s",
        "training": f"preset {options.preset}, {first.about}; {counted(first.processes, 'process')} on "
        f"{first.device}, mixed precision: {first.precision}",
    }


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m bench.end_to_end", description=__doc__, usage="%(prog)s [options] [-- TRAINING ...]"
    )
    parser.add_argument("--images", type=positive, default=NUM_IMAGES, metavar="N", help="strips, of all roles")
    parser.add_argument("--size", type=parse_size, default=SIZE, metavar="HxW", help="of a strip")
    parser.add_argument("--preset", default="severstal", metavar="NAME", help="what is trained")
    parser.add_argument(
        "--weights",
        default="none",
        help="the encoder's first ones, as `--model.weights`; `preset` for the preset's own",
    )
    parser.add_argument(
        "--compile",
        nargs="+",
        choices=("on", "off", "auto"),
        default=["on", "off"],
        help="as `--runtime.compile`, a row each",
    )
    repeats = "trainings of each kind that count; of several, after one that does not"
    parser.add_argument("--repeats", type=positive, default=1, metavar="N", help=repeats)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "end_to_end.md", metavar="FILE", help="the tables")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".bench", metavar="DIR", help="strips, shards, runs and logs"
    )
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    options.training = words[split + 1 :]
    options.work = options.work.absolute() / f"end-to-end-{options.images}-{options.size[0]}x{options.size[1]}"
    options.out = options.out.absolute()
    if Path(options.weights).exists():  # training runs in the checkout
        options.weights = str(Path(options.weights).absolute())
    _check_training(options)
    make_way([], [str(options.out)])
    return options


def _check_training(options: argparse.Namespace) -> None:
    """Find mistakes in the training's options before strips are made; those of `auto` wait for its shards."""
    from train.__main__ import OPTIONS
    from train.arguments import parse_fit

    for word in options.training:
        if word.partition("=")[0] in OURS:
            raise InputError(f"{word} after --: this program gives it to training; give its own options before the --")
    if options.preset != AUTO:
        nowhere = str(options.work / "none")
        starting = Parser(add_help=False)
        for name, *value in map(str.split, OPTIONS):
            starting.add_argument(name, action="store" if value else "store_true")
        _, rest = starting.parse_known_args(options.training)
        parse_fit("train", [*training_words(options, "off"), "--data", nowhere, "--out", nowhere, *rest])


if __name__ == "__main__":
    sys.exit(run_program(main))
