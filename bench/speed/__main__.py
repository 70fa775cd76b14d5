"""Speed against named peers, side by side: `python -m bench.speed` writes `bench/speed.md` and `bench/speed.json`."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.made_by import begin, facts_of_run
from bench.speed.dataset import SHARD_SIZE, Dataset, make_dataset, make_peers_formats
from bench.speed.environment import SAME_AS_OURS, peers_python
from bench.speed.read_rows import DELAY
from bench.speed.report import write_report
from bench.speed.rows import row_names, table
from bench.speed.run import Workers, measure_row, num_measurements, repeats_of
from bench.speed.worker import ROOT, Worker
from steel.commands.common import Parser

TITLE = "Speed"
NOTES = (
    "See [README.md](README.md) for how. Medians over the repeats, after one that does not count. A ratio is the "
    "median of the ratios within each repeat, as both sides run one after the other. In brackets the smallest and the "
    "largest.",
)


def main() -> None:
    """Entry point."""
    options, begun = _parse(), begin()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    work = options.work.absolute()
    work.mkdir(exist_ok=True)
    log = work / "speed.log"
    log.write_text("")
    start: dict[str, Callable[[], Worker]] = {
        "ours": partial(Worker, sys.executable, "bench.speed.ours", log),
    }
    data = make_dataset(work / f"speed-{options.num_images}", options.num_images)
    real = os.environ.get("STEEL_REAL_DATA")
    rle_csv = str(Path(real, "severstal_annotations", "train_partial.csv")) if real else data.annotations
    store = subprocess.Popen(
        [sys.executable, "-m", "bench.speed.store", str(work), str(DELAY)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert store.stdout is not None
        endpoint = f"http://127.0.0.1:{store.stdout.readline().strip()}"
        rows = table(
            data,
            endpoint=endpoint,
            bucket=data.root.name,
            rle_csv=rle_csv,
            num_samples=min(options.num_images, 960),
            has_gpu=torch.cuda.is_available(),
        )
        rows = [row for row in rows if not options.rows or row.name in options.rows]
        of_peers: dict[str, Any] = {}
        if any(side.where == "peers" for row in rows for side in row.sides):
            start["peers"] = partial(Worker, peers_python(work / "peers"), "bench.speed.peers", log)
            make_peers_formats(data, start["peers"])
            of_peers = _facts_of_peers(data, start["peers"])
        total = num_measurements(rows, options.repeats)
        with Workers(start) as workers, tqdm(total=total, unit="measurement", mininterval=2) as bar:
            results = [measure_row(row, options.repeats, workers, bar) for row in rows]
    finally:
        store.kill()
        store.wait()
    facts = facts_of_run("bench.speed", begun, ("numpy", *SAME_AS_OURS))
    facts["load average"] += " (alone, a run makes 1 to 2)"
    facts |= {
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "repeats": repeats_of(rows, options.repeats),
        "data": f"{options.num_images} images of 256x1600 from `steel synth`",
        "RLE texts": "real ones (STEEL_REAL_DATA)" if real else "of the synthetic masks",
        **of_peers,
    }
    write_report(options.out, results, facts, NOTES, TITLE)
    print(options.out.read_text())


def _facts_of_peers(data: Dataset, start: Callable[[], Worker]) -> dict[str, Any]:
    with start() as peers:
        versions = peers.ask("versions")
    how = "level {level}, strategy {strategy}: {milliseconds:.2f} ms to decode".format(**data.png)
    return {"peers' PNG masks": how, "versions, peers": versions}


def _parse() -> argparse.Namespace:
    parser = Parser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--num-images", type=int, default=800, metavar="N", help="size of the data set")
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="rounds that count, after one that does not"
    )
    names = row_names()
    only = f"measure only these of {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=only)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "speed.md", metavar="FILE", help="the table")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", metavar="DIR", help="environment and data sets")
    options = parser.parse_args()
    if options.num_images < 2 * SHARD_SIZE or options.repeats < 1:
        parser.error(f"give at least {2 * SHARD_SIZE} images, which make a shard per worker, and 1 repeat")
    return options


if __name__ == "__main__":
    main()
