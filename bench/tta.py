"""What test-time augmentation costs beyond its forward passes: `python -m bench.tta` writes `bench/tta.md`.

Each figure is of one image of a batch: bare forward passes of the predictor's own network with their probabilities, one
for each view, against the predictor with all views, from uint8 images to quantised probabilities on the host. On a CPU
both give each pass one thread and run several at once; on a GPU views share passes, and fewer images come together.
"""

import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from bench.made_by import begin, fact_lines, facts_of_run, median_and_spread
from bench.speed.worker import ROOT
from data_prep.arguments import parse_size
from steel.commands.common import Parser, make_way
from steel.config import NetworkConfig
from steel.errors import InputError, run_program
from steel.images.geometry import images_per_pass
from steel.inference.predictor import Predictor, choose_device
from steel.machine import keep_freed_memory
from steel.model.network import UnifiedModel, normalise
from steel.model.passes import open_passes
from steel.option_values import positive
from steel.reports.tables import format_columns
from steel.views import VIEWS

SIZES = ((128, 128), (256, 256), (256, 512), (256, 1600))
MEAN, STD = (0.4,), (0.2,)
MOST = 0.05
"""That all views may cost beyond as many bare passes."""
NUM_VIEWS = 1 + len(VIEWS)


class Times(NamedTuple):
    """Of a size: milliseconds an image, one entry a round; the three take turns."""

    size: tuple[int, int]
    images: int
    """Of a bare pass."""
    bare: Sequence[float]
    """One pass."""
    plain: Sequence[float]
    """The predictor with the plain view alone."""
    views: Sequence[float]
    """The predictor with all views."""

    @property
    def costs(self) -> list[float]:
        """Of each round: what all views take beyond as many bare passes, as a share of these."""
        return [views / (NUM_VIEWS * bare) - 1 for bare, views in zip(self.bare, self.views, strict=True)]


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.tta", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu or cuda")
    parser.add_argument("--encoder", default="resnet18", help="of the untrained U-Net")
    parser.add_argument("--repeats", type=positive, default=9, metavar="N", help="that count, after one that does not")
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=SIZES, metavar="HxW", help="of images")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "tta.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    make_way([], [str(options.out)])
    device, begun = choose_device(options.device), begin()
    if device.type == "cpu":
        keep_freed_memory()  # as whatever predicts does
    torch.manual_seed(0)
    network = NetworkConfig("Unet", options.encoder, 4, 1)
    model = UnifiedModel(network).eval().to(memory_format=torch.channels_last)
    for height, width in options.sizes:
        if min(height, width) < model.stride:  # padded to it, so many more of them share a pass than memory holds
            raise InputError(f"--sizes: {height}x{width}: give {model.stride} pixels a side at least")
    times = [measure(model, size, device, options.repeats) for size in tqdm(options.sizes, unit="size")]
    facts = facts_of_run("bench.tta", begun, ("torch",)) | {
        "repeats": options.repeats,
        "network": f"U-Net on {options.encoder}, untrained",
        "GPU": torch.cuda.get_device_name() if device.type == "cuda" else "not measured on a GPU",
    }
    options.out.write_text(page(times, facts), encoding="utf-8")
    print(options.out.read_text())


def bare_passes(predictor: Predictor, inputs: torch.Tensor, count: int) -> None:
    """The predictor's own network with its probabilities and nothing else, as many at once as the predictor's passes.

    Neither folded BatchNorms nor threads are a gain of the views: both are here, too.

    Args:
        predictor: of one network.
        inputs: (n, 1, h, w) normalised, on the device.
        count: how often.
    """
    (model,) = predictor.models
    pixels = inputs[:, 0].numel()

    def bare() -> None:
        mixed = torch.autocast(predictor.device.type, torch.bfloat16, enabled=predictor.precision == "bf16")
        with torch.inference_mode(), mixed:
            for output in model(inputs).values():
                torch.sigmoid(output.float())

    with open_passes(predictor.device) as passes:
        for result in [passes.begin(bare, pixels) for _ in range(count)]:
            result()


def measure(model: UnifiedModel, size: tuple[int, int], device: torch.device, repeats: int) -> Times:
    """Of `repeats` rounds, after one that does not count.

    Args:
        model: for predictors.
        size: of images, which are made up.
        device: where to compute.
        repeats: the number of rounds.
    """
    plain, views = predictors = [
        Predictor([model], mean=MEAN, std=STD, tta=views, device=device, precision="auto")
        for views in ((), tuple(VIEWS))
    ]
    plain.models = views.models  # one network for all three
    nums = [images_per_pass(*size, each.pixels_per_pass, views=each.views_at_once) for each in predictors]
    num = nums[0]  # of one view, as of a bare pass
    images = torch.randint(0, 256, (num, 1, *size), dtype=torch.uint8)
    inputs = normalise(images.to(device), MEAN, STD).contiguous(memory_format=torch.channels_last)

    def predict(predictor: Predictor, together: int) -> Callable[[], object]:
        batches = list(torch.cat([images] * 4).split(together))
        return lambda: sum(1 for _ in predictor.stream_probabilities(batches))

    runs = [lambda: bare_passes(views, inputs, 4 * NUM_VIEWS), *map(predict, predictors, nums)]
    seconds = [[_seconds(run, device) for run in runs] for _ in range(repeats + 1)][1:]
    bare, one, every = (tuple(1000 * each / (4 * num) for each in column) for column in zip(*seconds, strict=True))
    return Times(size, num, tuple(each / NUM_VIEWS for each in bare), one, every)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of the processor's time on a CPU, which other load changes least; of the clock's on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def page(times: Sequence[Times], facts: Mapping[str, Any]) -> str:
    """The document; `facts` tell what it was made with."""
    words = (
        "Milliseconds of an image of a batch, medians of the rounds after one that does not count, with the smallest "
        "and the largest in brackets: a bare forward pass with its probabilities; `Predictor` with the plain view "
        f"alone and with all {NUM_VIEWS}, from uint8 images to quantised probabilities. All three run one network, "
        "with BatchNorms folded, in as many threads; freed memory is kept, as `steel predict` keeps it. The cost is "
        "that of all views beyond as many bare passes, of each round. On a CPU time is the processor's, on a GPU the "
        "clock's."
    )
    header = ["size", "images per pass", "bare pass", "one view", f"{NUM_VIEWS} views", "cost", "target"]
    table = format_columns([header, *map(_row, times)], markdown=True)
    told = textwrap.fill(words, 120, break_on_hyphens=False)
    return "\n".join(["# Test-time augmentation", "", told, "", *fact_lines(facts), "", table]) + "\n"


def _row(times: Times) -> list[str]:
    cost = statistics.median(times.costs)
    verdict = "reached" if cost <= MOST else "**missed**"
    return [
        "x".join(map(str, times.size)),
        str(times.images),
        *(median_and_spread(some, ".1f") for some in (times.bare, times.plain, times.views)),
        f"{100 * cost:+.1f} % ({100 * min(times.costs):+.0f} to {100 * max(times.costs):+.0f})",
        f"at most {100 * MOST:+.0f} %: {verdict}",
    ]


if __name__ == "__main__":
    sys.exit(run_program(main))
