"""Time of the Lovász loss, sorting all classes or those present: `python -m bench.lovasz` writes `bench/lovasz.md`."""

import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.made_by import begin, fact_lines, facts_of_run, median_and_spread
from bench.speed.worker import ROOT
from steel.commands.common import Parser, make_way
from steel.errors import run_program
from steel.inference.predictor import choose_device
from steel.loading.train_loader import present_pairs
from steel.model.losses import lovasz_hinge
from steel.option_values import positive
from steel.reports.tables import format_columns

SHARES = (0.12, 0.03, 0.45, 0.1)
"""Of crops that hold each of Severstal's classes, half of the crops of defective images moved onto a defect."""
SHAPES = ((8, 256, 512), (1, 256, 1600), (4, 256, 1600))


class Times(NamedTuple):
    """Of a micro-batch: milliseconds of the loss with its gradient, one entry a round; the two take turns."""

    shape: tuple[int, int, int]
    """Images, height, width."""
    pairs: str
    """Of image and class, in words: how many there are, are present, are sorted."""
    every: Sequence[float]
    """All classes sorted."""
    present: Sequence[float]
    """Those that are present."""

    @property
    def gains(self) -> list[float]:
        """Of each round: how many times as fast the present ones are."""
        return [every / present for every, present in zip(self.every, self.present, strict=True)]


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.lovasz", description=__doc__)
    parser.add_argument("--device", default="cpu", help="where to compute: cpu or cuda")
    parser.add_argument("--repeats", type=positive, default=7, metavar="N", help="that count, after two that do not")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "lovasz.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    make_way([], [str(options.out)])
    device, begun = choose_device(options.device), begin()
    torch.manual_seed(0)
    times = [measure(shape, device, options.repeats) for shape in SHAPES]
    facts = facts_of_run("bench.lovasz", begun, ("torch",)) | {
        "repeats": options.repeats,
        "threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if device.type == "cuda" else "not measured on a GPU",
    }
    options.out.write_text(page(times, facts), encoding="utf-8")
    print(options.out.read_text())


def measure(shape: tuple[int, int, int], device: torch.device, repeats: int) -> Times:
    """Of a made-up micro-batch.

    Args:
        shape: images, height, width.
        device: where to compute.
        repeats: rounds, after two that do not count.
    """
    num, height, width = shape
    masks = torch.zeros(num, len(SHARES), height, width)
    held = torch.rand(num, len(SHARES)) < torch.tensor(SHARES)
    held[0, 2] = True
    masks[held] = (torch.rand(int(held.sum()), height, width) < 0.1).float()
    packed = (masks * 2.0 ** torch.arange(len(SHARES))[:, None, None]).sum(1).to(torch.uint8)
    pairs = torch.from_numpy(present_pairs(packed.numpy(), len(SHARES))).to(device)
    logits = torch.randn(masks.shape).to(device).requires_grad_()
    masks, valid = masks.to(device), torch.ones(num, 1, height, width, device=device)
    runs = [lambda chosen=chosen: _pass(logits, masks, valid, chosen) for chosen in (None, pairs)]
    rounds = [[_milliseconds(run, device) for run in runs] for _ in range(repeats + 2)][2:]
    every, present = zip(*rounds, strict=True)
    return Times(shape, f"{int(held.sum())} of {held.numel()}, {len(pairs)} sorted", every, present)


def _pass(logits: Tensor, masks: Tensor, valid: Tensor, pairs: Tensor | None) -> None:
    (gradient,) = torch.autograd.grad(lovasz_hinge(logits, masks, valid, pairs).sum(), logits)
    assert gradient.shape == logits.shape


def _milliseconds(run: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def page(times: Sequence[Times], facts: Mapping[str, Any]) -> str:
    """The document; `facts` tell what it was made with."""
    words = (
        "Milliseconds of the Lovász loss with its gradient over a made-up micro-batch, whose images hold each of four "
        "classes as often as Severstal's crops do: medians of the rounds after two that do not count, with the "
        "smallest and the largest in brackets. The gain is of each round, as both ways take turns."
    )
    header = ["micro-batch", "present pairs", "all sorted", "present sorted", "gain"]
    table = format_columns([header, *map(_row, times)], markdown=True)
    told = textwrap.fill(words, 120, break_on_hyphens=False)
    return "\n".join(["# The Lovász loss", "", told, "", *fact_lines(facts), "", table]) + "\n"


def _row(times: Times) -> list[str]:
    gains = times.gains
    return [
        "x".join(map(str, times.shape)),
        times.pairs,
        *(median_and_spread(some, ".1f") for some in (times.every, times.present)),
        f"{statistics.median(gains):.2f}x ({min(gains):.2f} to {max(gains):.2f})",
    ]


if __name__ == "__main__":
    sys.exit(run_program(main))
