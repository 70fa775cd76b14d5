"""What the presets' networks cost, and that each trains:  python -m bench.encoders

Makes bench/encoders.md: parameters, arithmetic and pace of a forward pass, the licence of the published weights.
Each preset is trained, validated and shipped, from random weights, for nothing is downloaded: for one pass over images
that are given with --images and --labels, or for a few steps on small synthetic strips.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bench.made_by import begin, fact_lines, facts_of_run, median_and_spread
from steel.checkpoint import load_checkpoint
from steel.commands.common import Parser, make_way
from steel.config import Config, NetworkConfig
from steel.errors import InputError, run_program
from steel.model.network import UnifiedModel
from steel.pretrained.licences import licence_text
from steel.pretrained.sources import find_published
from steel.reports.tables import format_columns
from steel.shards.reader import ShardReader
from train.presets import ENCODERS, SEVERSTAL

ROOT = Path(__file__).parents[1]
SIZE = (256, 1600)
PRESETS = (SEVERSTAL, *ENCODERS)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 3
"""Of each phase, in the trial on synthetic strips."""
REPEATS = 5
"""Forward passes that are timed, after one that is not."""
HEADER = ("preset", "network", "million parameters", "GFLOP per image", "images/s", "weights", "their licence")


def count_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of a forward pass over `images`, a multiplication and an addition counted as two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops())


@torch.inference_mode()
def forward_rates(model: nn.Module, image: torch.Tensor) -> list[float]:
    """Images a second, one at a time, on the device of `image`: of each of a few passes."""
    times: list[float] = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        model(image)["segmentation"][0, 0, 0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return [1 / seconds for seconds in times[1:]]


def measure_row(preset: Config) -> list[str]:
    """The table's line of one preset."""
    network = NetworkConfig(preset.model.architecture, preset.model.encoder, num_classes=4, in_channels=1)
    model = UnifiedModel(network).eval()
    image = torch.zeros(1, 1, *SIZE)
    flops = count_flops(model, image)
    model.to(DEVICE).to(memory_format=torch.channels_last)
    rates = forward_rates(model, image.to(DEVICE).contiguous(memory_format=torch.channels_last))
    published = find_published(preset.model.encoder)
    return [
        f"`{preset.preset}`",
        f"{network.architecture} on {network.encoder}",
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}",
        f"{flops / 1e9:.0f}",
        median_and_spread(rates, ".2f" if max(rates) < 1 else ".1f"),
        published.repository,
        licence_text(published.settings.get("license")),
    ]


def train_a_little(preset: Config, shards: Path, out: Path, few: Sequence[str]) -> int:
    """A run from random weights, as a user starts it; the number of tensors it shipped.

    Args:
        preset: its recipe, but for `few`.
        shards: of the images.
        out: the run.
        few: options that make it short.
    """
    given = ("--tracking.tracker", "none", "--runtime.workers", "0", "--model.weights", "none", *few)
    _run([sys.executable, "-m", "train.fit", "--preset", preset.preset, "--data", shards, "--out", out, *given])
    return len(load_checkpoint(out / "model.safetensors").tensors)


def a_few_steps() -> list[str]:
    """Of each phase, on crops of the synthetic strips."""
    return [
        *("--phases.0.epochs", str(4 * STEPS / 12), "--phases.0.crop", "64", "128"),
        *("--phases.1.epochs", str(4 * STEPS / 12)),
        *(option for k in "01" for option in (f"--phases.{k}.batch-size", "4", f"--phases.{k}.micro-batch", "2")),
        "--validation.tta",
    ]


def one_pass() -> list[str]:
    """Of each phase, with the preset's own crops and views; in batches that a few images fill and any machine holds."""
    return [
        option
        for k in "01"
        for option in (f"--phases.{k}.epochs", "1", f"--phases.{k}.batch-size", "4", f"--phases.{k}.micro-batch", "1")
    ]


def make_strips(folder: Path) -> tuple[Path, Path]:
    """Twenty small synthetic strips: a folder of images and the file of their masks."""
    few = ("--num-train", 20, "--num-test", 1, "--height", 64, "--width", 200)
    _run([sys.executable, "-m", "steel.cli", "synth", folder, *few])
    return folder / "train_images", folder / "train.csv"


def make_shards(images: Path, labels: Path, shards: Path) -> Path:
    """In five folds."""
    _run([sys.executable, "-m", "data_prep", "--images", images, "--labels", labels, "--out", shards])
    return shards


def _run(line: Sequence[object]) -> None:
    done = subprocess.run([str(part) for part in line], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{shlex.join(map(str, line))} failed: {done.stderr.strip()[-2000:]}")


def describe_trial(shards: Path, *, given: bool) -> str:
    """What each preset was trained on, in words."""
    index = ShardReader(str(shards)).index
    size = f"{index.height.max()}x{index.width.max()}"
    if given:
        return f"one pass of each phase over {len(index)} images of {size} in five folds, in batches of 4"
    return f"{STEPS} steps of each phase on {len(index)} synthetic strips of {size}"


def page(rows: Sequence[Sequence[str]], facts: Mapping[str, Any]) -> str:
    """The document; `facts` tell what it was made with."""
    words = (
        "One gray image of 256x1600, four classes, forward pass; a multiplication and an addition count as two "
        "operations, and training costs about three times as many. Images a second are passes of one image each in "
        "float32, the median with the smallest and the largest. Each preset was trained, validated and shipped, from "
        "random weights. **None has been judged on steel with these encoders**, the recipe of `severstal` with smaller "
        "ones ([quality.md](quality.md)). More on licences: [docs/pretrained.md](../docs/pretrained.md)."
    )
    table = format_columns([list(HEADER), *map(list, rows)], markdown=True)
    told = textwrap.fill(words, 120)
    return "\n".join(["# Encoders of the presets", "", told, "", *fact_lines(facts), "", table]) + "\n"


def main() -> None:
    """Count and time every preset's network, train it a little, and write the document."""
    options = _parse()
    begun, trained = begin(), {}
    with tempfile.TemporaryDirectory(prefix="encoders-") as name:
        folder = Path(name)
        images, labels = (
            (options.images.absolute(), options.labels.absolute()) if options.images else make_strips(folder / "strips")
        )
        shards, rows = make_shards(images, labels, folder / "shards"), []
        for preset in tqdm(PRESETS, unit="preset"):
            rows.append(measure_row(preset))
            start = time.perf_counter()
            few = one_pass() if options.images else a_few_steps()
            shipped = train_a_little(preset, shards, folder / preset.preset, few)
            trained[preset.preset] = f"{time.perf_counter() - start:,.0f} s"
            tqdm.write(f"{preset.preset}: trained, {shipped} tensors shipped")
        facts = facts_of_run("bench.encoders", begun, ("torch", "segmentation-models-pytorch", "timm")) | {
            "repeats": REPEATS,
            "threads": torch.get_num_threads(),
            "GPU": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "not measured on a GPU",
            "trained": describe_trial(shards, given=bool(options.images)),
            "seconds of that, start and validations included": trained,
        }
    options.out.write_text(page(rows, facts), encoding="utf-8")
    print(options.out.read_text())


def _parse() -> argparse.Namespace:
    parser = Parser(prog="python -m bench.encoders", description=__doc__)
    parser.add_argument("--images", type=Path, metavar="DIR", help="images to train on, in place of synthetic strips")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="their masks, as for data_prep")
    out = Path(__file__).with_suffix(".md")
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="the document")
    options = parser.parse_args()
    if (options.images is None) != (options.labels is None):
        parser.error("--images and --labels go together")
    for path in filter(None, (options.images, options.labels)):
        if not path.exists():
            parser.error(f"{path}: there is no such file or folder")
    make_way([], [str(options.out)])
    return options


if __name__ == "__main__":
    sys.exit(run_program(main))
