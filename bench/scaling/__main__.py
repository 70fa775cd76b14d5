"""What many GPUs and many images cost: `python -m bench.scaling` writes `bench/scaling.md`.

Gradients are counted on the presets' networks and summed here over two processes; on links of GPUs the sum's time is
the arithmetic of rings over nominal rates. Steps come from `bench/train_step.json` where it was made on a GPU, the
loader's pace from `bench/speed.json`: after either has been made anew, `--derived` puts it in. Indexes are made up and
opened; the largest is extrapolated.
"""

import functools
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn
from tqdm import tqdm

from bench.made_by import begin, fact_lines, facts_of_run, median_and_spread
from bench.scaling.index_size import MICRO_BATCH, SAMPLES_PER_SHARD, Opening, make_folder
from bench.scaling.links import BETWEEN_NODES, measure_gloo, reduce_seconds
from bench.speed.worker import ROOT
from steel.commands.common import Parser, make_way
from steel.config import Config, NetworkConfig
from steel.errors import run_program
from steel.model.network import UnifiedModel
from steel.option_values import positive
from steel.reports.tables import format_columns
from train.presets import ENCODERS, SEVERSTAL

BENCH = ROOT / "bench"
PRESETS = (SEVERSTAL, *ENCODERS)
WORLDS = (8, 64, 512)
SIZES = (100_000, 1_000_000, 10_000_000)
EXTRAPOLATED = 1_000_000_000
NEEDS = (1_900, 2_400)
"""Crops per second that a GPU may take: the aims on an H100 and an H200."""
LITTLE = 0.05
"""Share of a step that the sum may add, for the column that says from which step on it does."""


def count_bytes(preset: Config) -> tuple[int, int]:
    """Of the gradients of a preset's network, and of its BatchNorm statistics, both float32."""
    model = UnifiedModel(NetworkConfig(preset.model.architecture, preset.model.encoder, num_classes=4, in_channels=1))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return 4 * sum(p.numel() for p in model.parameters()), 4 * sum(2 * norm.num_features for norm in norms)


def gradient_rows(repeats: int) -> Iterator[list[str]]:
    """The first table, a line of each preset."""
    for preset in tqdm(PRESETS, desc="gradients", unit="preset"):
        gradients, statistics_bytes = count_bytes(preset)
        gloo = measure_gloo(gradients, repeats)
        num_bytes = gradients + statistics_bytes
        reduced = [
            f"{1e3 * reduce_seconds(num_bytes, world, link):.1f}" for link in BETWEEN_NODES for world in WORLDS[1:]
        ]
        inside = f"{1e3 * reduce_seconds(num_bytes, WORLDS[0], BETWEEN_NODES[0]):.2f}"
        here = median_and_spread([1e3 * each for each in gloo], ".0f")
        counted = [f"`{preset.preset}`", f"{gradients / 1e6:.1f}", f"{statistics_bytes / 1e3:.0f}"]
        yield [*counted, here, inside, *reduced]


class MicroBatchTime(NamedTuple):
    """Of a preset's network on one GPU."""

    images: int
    milliseconds: float
    """Of a step, for each of its micro-batches."""


def efficiency_rows(times: Mapping[str, MicroBatchTime]) -> Iterator[list[str]]:
    """The second table: from which step on the sum costs little, and the efficiency of the step where it is known.

    Args:
        times: by preset; of `WORLDS` GPUs each computes one micro-batch a step.
    """
    for preset in PRESETS:
        num_bytes = sum(count_bytes(preset))
        for link in BETWEEN_NODES:
            costs = [1e3 * reduce_seconds(num_bytes, world, link) for world in WORLDS]
            least = " / ".join(f"{cost / LITTLE - cost:.0f}" for cost in costs)
            known = "not measured on a GPU"
            if preset.preset in times:
                images, step = times[preset.preset]
                efficiencies = " / ".join(f"{step / (step + cost):.1%}" for cost in costs)
                known = f"{images} images a GPU, {step:.1f} ms: {efficiencies}"
            yield [f"`{preset.preset}`", link.name.split(",")[0].split(" (")[0], least, known]


def micro_batch_times(tables: Sequence[Path]) -> dict[str, MicroBatchTime]:
    """By preset, where `bench.train_step` ran on a GPU with the preset's network, whatever weights its encoder has.

    Of several rows of a network the one of the smallest batch counts: its steps are the most like those of a GPU among
    many, which updates the weights after each micro-batch.

    Args:
        tables: of `bench.train_step`, as JSON.
    """
    found: dict[str, tuple[int, MicroBatchTime]] = {}
    presets = {(one.model.architecture, _without_tag(one.model.encoder)): one.preset for one in PRESETS}
    for path in tables:
        table = json.loads(path.read_text(encoding="utf-8"))
        if "not measured on a GPU" in table["facts"]:
            continue
        given = _micro_batch(table["facts"]["options"])
        for row in table["rows"]:
            name = re.fullmatch(r"made-up (\S+) (\S+), 256x1600, batch (\d+)", row["name"])
            preset = name and presets.get((name[1], _without_tag(name[2])))
            if name and preset and (rates := row["sides"][0]["rates"]):
                batch = int(name[3])
                images = min(given or batch, batch)
                time = MicroBatchTime(images, 1e3 * images / statistics.median(rates))
                found[preset] = min(found.get(preset, (batch, time)), (batch, time))
    return {preset: time for preset, (_, time) in found.items()}


def _micro_batch(options: str) -> int | None:
    """Of the options that a table of `bench.train_step` was made with; None: a step's batch is one."""
    parser = Parser(add_help=False)
    parser.add_argument("--micro-batch", type=int)
    return parser.parse_known_args(shlex.split(options))[0].micro_batch


def _without_tag(encoder: str) -> str:
    """The name in timm of the network alone: behind the dot stands which weights."""
    return encoder.partition(".")[0]


def loader_rows(table: Path) -> Iterator[list[str]]:
    """The third table, from that of `bench.speed`: cores that feed one GPU."""
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
    held, decoded = next(row["sides"] for row in rows if row["name"] == "decoded-batches")
    for side, words in ((decoded, "decoding each image"), (held, "from the decoded cache")):
        per_core = statistics.median(side["rates"]) / 2  # of two workers
        yield [words, f"{per_core:.0f}", *(f"{need / per_core:.1f}" for need in NEEDS)]


def index_rows(sizes: Sequence[int], repeats: int, work: Path) -> Iterator[list[str]]:
    """The last table; its last line goes on from the largest size in proportion."""
    for size in tqdm(sizes, desc="indexes", unit="index"):
        shutil.rmtree(work, ignore_errors=True)
        index_bytes = make_folder(work, size)
        openings = [_open_apart(work) for _ in range(repeats + 1)][1:]
        shutil.rmtree(work)
        yield _index_row(f"{size:,}", index_bytes, openings)
    typical = Opening(*(statistics.median(values) for values in zip(*openings, strict=True)))
    factor = EXTRAPOLATED / sizes[-1]
    larger = Opening(typical.opened * factor, typical.sampler * factor, typical.batch, int(typical.memory * factor))
    yield _index_row(f"{EXTRAPOLATED:,}, in proportion: *not measured*", int(index_bytes * factor), [larger])


def _open_apart(folder: Path) -> Opening:
    line = [sys.executable, "-m", "bench.scaling.index_size", str(folder)]
    done = subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Opening(**json.loads(done.stdout))


def _index_row(name: str, index_bytes: int, openings: Sequence[Opening]) -> list[str]:
    """A line; of one opening there is no spread."""
    opened, sampler, batch, memory = zip(*openings, strict=True)
    spread = median_and_spread if len(openings) > 1 else lambda values, form: f"{values[0]:{form}}"
    return [
        name,
        f"{index_bytes / 1e6:,.0f}",
        spread(opened, ".2f"),
        spread(sampler, ".2f"),
        spread([1e3 * each for each in batch], ".1f"),
        spread([each / 1e6 for each in memory], ",.0f"),
    ]


def gradients_section(repeats: int) -> str:
    """What sums cost: measured here, computed for GPUs."""
    words = (
        "Megabytes of float32 gradients, kilobytes of BatchNorm statistics that ranks join, and milliseconds of "
        "their sum: **measured** over two gloo processes of one thread on this machine (median, smallest to "
        f"largest of {repeats}, after one that does not count); **computed** for GPUs, eight to a node: a ring within "
        "the node over NVLink, then rings between nodes, over nominal rates (`scaling/links.py`), nothing of it "
        "measured. The sum runs beside the backward pass, so this is the most that a step can wait for it."
    )
    header = ["preset", "MB", "kB", "gloo, 2 here", "NVLink, 8"]
    header += [f"{k}, {n}" for k in ("NDR", "25 GbE") for n in WORLDS[1:]]
    return _section("Summing gradients", words, header, list(gradient_rows(repeats)))


def efficiency_section(tables: Sequence[Path]) -> str:
    """From tables of `bench.train_step`; nothing is measured."""
    worlds = ", ".join(map(str, WORLDS))
    times = " and ".join(f"with {world} GPUs {world // WORLDS[0]}" for world in WORLDS[1:])
    words = (
        f"The shortest step, in milliseconds on one GPU, of which the sum takes at most {LITTLE:.0%} when nothing "
        f"of it overlaps, for {worlds} GPUs; and, on the same assumption, the efficiency where each GPU computes one "
        "micro-batch a step: its time is that of a step measured on one GPU, for each of its micro-batches. A preset's "
        f"step has {WORLDS[0]} micro-batches, one for each of {WORLDS[0]} GPUs; one for each of more GPUs makes the "
        f"batch larger than the preset's, {times} times. Accumulating micro-batches makes steps longer and sums no "
        "more."
    )
    header = ("preset", "between nodes", f"step for 95 % at {worlds}", "one micro-batch, efficiency")
    return _section("Efficiency", words, header, list(efficiency_rows(micro_batch_times(tables))))


def cores_section(table: Path) -> str:
    """From the table of `bench.speed`; nothing is measured."""
    words = (
        "Crops of 256x512, half of them on defects, per second of one loader process, from the table of "
        "`bench.speed`, and the processes that feed a GPU which takes so many per second. The machine that made it "
        "stands there. Whole strips: not measured."
    )
    header = ("batches", "crops/s a core", *(f"{need:,} crops/s" for need in NEEDS))
    return _section("Host cores per GPU", words, header, list(loader_rows(table)))


def index_section(sizes: Sequence[int], repeats: int, work: Path) -> str:
    """How long indexes take to open, measured here."""
    words = (
        f"A made-up index of so many samples, {SAMPLES_PER_SHARD} to a shard, four classes, in the page cache; one "
        f"core, medians of {repeats} processes, after one that does not count (smallest to largest). Opening reads the "
        "manifest, maps the index and checks each row against it, in every rank; then the order of an epoch; then "
        f"finding and placing the samples of a micro-batch of {MICRO_BATCH} in mid-epoch. Memory is what the process "
        "has grown at its most, and counts pages of the mapped index, which the system takes back when it needs them."
    )
    header = ("samples", "index, MB", "open, s", "order, s", "micro-batch, ms", "memory, MB")
    return _section("Index and start", words, header, list(index_rows(sizes, repeats, work)))


def _section(title: str, words: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = format_columns([list(header), *map(list, rows)], markdown=True)
    return f"## {title}\n\n{textwrap.fill(words, 120)}\n\n{table}\n"


def replace_section(page: str, section: str) -> str:
    """The page with `section` in the place of the one of that title.

    Raises:
        ValueError: the page has none.
    """
    start = page.index(section[: section.index("\n") + 1])
    end = page.find("\n## ", start)
    return page[:start] + section + ("" if end < 0 else page[end:])


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="that count, after one that does not")
    parser.add_argument("--sizes", type=positive, nargs="+", default=SIZES, metavar="N", help="samples of the indexes")
    parser.add_argument("--out", type=Path, default=BENCH / "scaling.md", metavar="FILE", help="the page")
    parser.add_argument(
        "--derived", action="store_true", help="measure nothing: rewrite what follows from other tables, in that page"
    )
    parser.add_argument(
        "--steps",
        type=Path,
        nargs="+",
        default=[BENCH / "train_step.json"],
        metavar="FILE",
        help="tables of bench.train_step: of all presets' networks together, on one GPU of one kind",
    )
    options = parser.parse_args()
    for path in options.steps:
        if not path.is_file():
            parser.error(f"--steps: {path} is no file; make it with python -m bench.train_step --device cuda")
    make_way([], [str(options.out)])
    begun = begin()
    derived = efficiency_section(options.steps), cores_section(BENCH / "speed.json")
    if options.derived:
        try:
            page = functools.reduce(replace_section, derived, options.out.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            parser.error(f"--derived: {options.out} is no page of this program; make it without --derived")
    else:
        with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
            index = index_section(options.sizes, options.repeats, Path(folder) / "shards")
        gradients = gradients_section(options.repeats)
        facts = facts_of_run("bench.scaling", begun, ("torch", "numpy", "pyarrow")) | {"repeats": options.repeats}
        head = ["# Many GPUs, many images", "", *fact_lines(facts)]
        page = "\n".join(["\n".join(head) + "\n", gradients, *derived, index])
    options.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    sys.exit(run_program(main))
