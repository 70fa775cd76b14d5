"""A training step against peers: `python -m bench.train_step` writes `bench/train_step.md` and `train_step.json`."""

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.gpu_samples import in_words, parse_cards, sampled
from bench.made_by import Begun, begin, facts_of_run
from bench.speed.dataset import SHARD_SIZE, make_dataset
from bench.speed.report import write_report
from bench.speed.row import Row
from bench.speed.run import RowResult, SideResult, Workers, measure_row, num_measurements, repeats_of
from bench.speed.worker import ROOT, Worker
from bench.train_step.environment import peers_python
from bench.train_step.profiling import write_profiles
from bench.train_step.rows import DEFAULT, KINDS, UNKEPT, aims_not_measured, not_measured, rows_of
from bench.train_step.setting import Setting
from data_prep.arguments import parse_size
from steel.commands.common import Parser
from steel.config import NetworkConfig
from steel.errors import run_program
from steel.inference.predictor import choose_device
from steel.model.architectures import check_architecture
from steel.option_values import positive
from steel.precision import has_native_bf16

TITLE = "A training step"
NOTES = (
    "See [README.md](README.md) for how. Same network and first weights, same "
    "batches, losses and optimizer on all sides. Medians over the repeats, after one that does not count; a ratio is "
    "the median of the ratios within each repeat, as the sides take turns. In brackets the smallest and the largest.",
)


PROFILED_STEPS = 5
"""At most: a profiler holds every operation of them."""
NUM_IMAGES = 2 * SHARD_SIZE
"""For the rows that the loader feeds, of 256x1600."""


def main() -> None:
    """Entry point."""
    options, begun = _parse(), begin()
    work = options.work.absolute()
    work.mkdir(exist_ok=True)
    log = work / "train_step.log"
    log.write_text("")
    settings = _settings(options)
    shards = make_dataset(work / f"speed-{NUM_IMAGES}", NUM_IMAGES).folder("ours") if "loader" in options.rows else ""
    card = torch.cuda.get_device_name() if options.device == "cuda" else ""
    rows = rows_of(options.rows, settings, shards, card, bf16=has_native_bf16("cpu"))
    ours = ("ours", "ours-compiled", "ours-0", "ours-1", "ours-unkept", "ranks")
    start: dict[str, Callable[[], Worker]] = {
        name: partial(Worker, sys.executable, f"bench.train_step.{module}", log)
        for name, module in (*((name, "ours") for name in ours), ("plain", "plain"))
    }
    start["plain-nchw"] = start["plain-compiled"] = start["plain"]
    if options.profile is not None:
        found = [*_profiles(rows, start)]
        write_profiles(options.profile, found, _facts(card, begun))
        print(options.profile.read_text())
        return
    of_peers: dict[str, Any] = {}
    if any(side.task in ("lightning", "monai") for row in rows for side in row.sides):
        start["monai"] = partial(Worker, peers_python(work / "step-peers"), "bench.train_step.peers", log)
        start["lightning"] = start["lightning-nchw"] = start["monai-nchw"] = start["monai"]
        with start["monai"]() as peers:
            of_peers = {"versions, peers": peers.ask("versions")}
    total = num_measurements(rows, options.repeats)
    samples = work / "train_step-gpu.csv"
    with tqdm(total=total, unit="measurement", mininterval=2) as bar, sampled(samples):
        results = [_measure(row, options.repeats, start, bar) for row in rows]
    facts = {
        **_facts(card, begun),
        **_power(card, samples.read_text(encoding="utf-8")),
        "repeats": repeats_of(rows, options.repeats),
        "steps of a repeat": f"{options.steps}{' after one that is not timed' * settings[0].lead}",
        **of_peers,
        **_gaps(options.rows, settings, card),
    }
    write_report(options.out, results, facts, NOTES, TITLE)
    print(options.out.read_text())


def _facts(card: str, begun: Begun) -> dict[str, Any]:
    """Of any run."""
    facts = facts_of_run("bench.train_step", begun, ("torch", "accelerate", "segmentation-models-pytorch", "timm"))
    facts["load average"] += " (alone, a run makes 2)"
    return {**facts, "GPU": card or "none", "options": shlex.join(sys.argv[1:]) or "none"}


def _power(card: str, samples: str) -> dict[str, str]:
    """Fact: what the GPUs drew and how fast they ran while all was measured, the pauses between included."""
    return {"power and clocks": in_words(parse_cards(samples))} if card else {}


def _profiles(rows: Sequence[Row], start: dict[str, Callable[[], Worker]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The title of each row whose first side is one process of ours, and what a profiler saw of that."""
    for row in rows:
        side = row.sides[0]
        if side.task == "step":
            steps = min(PROFILED_STEPS, side.options["steps"])
            with start[side.where]() as worker:
                yield row.title, worker.ask("profiled", **{**side.options, "steps": steps})


def _gaps(kinds: Sequence[str], settings: Sequence[Setting], card: str) -> dict[str, str]:
    """Facts: what this run leaves open; arguments as of `rows_of`."""
    facts = {"not measured": "; ".join(not_measured(kinds, settings)) or "nothing"}
    if aims := "; ".join(aims_not_measured(kinds, settings, card)):
        facts["aims not measured"] = aims
    if not card:
        facts["not measured on a GPU"] = "all of it: CUDA graphs, mixed precision, the host's time (`--device cuda`)"
        facts["device time"] = "not measured"
    return facts


def _measure(row: Row, repeats: int, start: dict[str, Callable[[], Worker]], bar: tqdm) -> RowResult:
    """A row by processes of its own, so that memory is the row's; with what else each side saw as its remark."""
    with Workers(start) as workers:
        workers.start(side.where for side in row.sides)
        result = measure_row(row, repeats, workers, bar)
        sides = []
        for each in result.sides:
            figures = {} if each.error else workers.ask(each.side.where, "figures")
            before = _against_peers(result, each) if each.side.label == UNKEPT else each.side.remark
            told = _remark(before, figures)
            sides.append(replace(each, side=replace(each.side, remark=told)))
    return replace(result, sides=tuple(sides))


def _against_peers(result: RowResult, side: SideResult) -> str:
    """In words: how many times as fast one side is as each that ours has a target against."""
    ratios = {
        peer.side.label: statistics.median(a / b for a, b in zip(side.rates, peer.rates, strict=True))
        for peer in result.sides
        if peer.side.target is not None and side.rates and peer.rates
    }
    return "; ".join(f"{ratio:.2f}x as fast as {label}" for label, ratio in ratios.items())


def _remark(before: str, figures: dict[str, float]) -> str:
    """In words: what a worker's `figures` gave."""
    words = {
        "step_ms": "{:,.0f} ms a step",
        "host_ms": "{:.1f} ms of the host",
        "device_ms": "{:.1f} ms of the device",
        "memory_gib": "{:.1f} GiB",
        "data_wait": "{:.1%} data wait",
        "first_loss": "first loss {:.6f}",
    }
    told = [text.format(figures[name]) for name, text in words.items() if name in figures]
    return ", ".join([before, *told] if before else told)


def _settings(options: argparse.Namespace) -> list[Setting]:
    precision = "bf16" if options.device == "cuda" else "no"
    return [
        replace(
            DEFAULT,
            architecture=architecture,
            encoder=encoder,
            height=height,
            width=width,
            batch=options.batch,
            micro=options.micro_batch or options.batch,
            steps=options.steps,
            device=options.device,
            precision=precision,
        )
        for architecture, encoder, (height, width) in product(options.architectures, options.encoders, options.sizes)
    ]


def _parse() -> argparse.Namespace:
    parser = Parser(prog="python -m bench.train_step", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of rows")
    parser.add_argument("--architectures", nargs="+", default=[DEFAULT.architecture], metavar="NAME", help="of smp")
    parser.add_argument("--encoders", nargs="+", default=[DEFAULT.encoder], metavar="NAME", help="of smp")
    default = [(DEFAULT.height, DEFAULT.width)]
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=default, metavar="HxW", help="of images")
    parser.add_argument("--batch", type=positive, default=DEFAULT.batch, metavar="N", help="images a step")
    parser.add_argument(
        "--micro-batch", type=positive, metavar="N", help="images a forward pass; the batch when left out"
    )
    parser.add_argument("--steps", type=positive, default=DEFAULT.steps, metavar="N", help="timed ones of a repeat")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="that count, after one that does not")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help="where to compute")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "train_step.md", metavar="FILE", help="the table")
    profile = "instead of the table: where the time of our steps goes, by a profiler"
    parser.add_argument("--profile", type=Path, metavar="FILE", help=profile)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", metavar="DIR", help="environment and data sets")
    options = parser.parse_args()
    choose_device(options.device)
    if options.batch % (options.micro_batch or options.batch):
        parser.error(f"--micro-batch {options.micro_batch}: a --batch of {options.batch} is no whole number of those")
    for setting in _settings(options):
        check_architecture(NetworkConfig(setting.architecture, setting.encoder, num_classes=1, in_channels=1))
    return options


if __name__ == "__main__":
    sys.exit(run_program(main))
