"""What the presets' networks cost, and that each trains:  python -m bench.encoders

Makes bench/encoders.md: parameters, arithmetic and pace of a forward pass, the licence of the published weights.
Each preset is trained for a few steps on synthetic strips, validated and shipped, from random weights, for nothing is
downloaded.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bench.speed.run import machine
from steel.checkpoint import load_checkpoint
from steel.config import Config, NetworkConfig
from steel.model.network import UnifiedModel
from steel.pretrained.licences import licence_text
from steel.pretrained.sources import find_published
from steel.reports.tables import format_columns
from train.presets import ENCODERS, SEVERSTAL

ROOT = Path(__file__).parents[1]
SIZE = (256, 1600)
PRESETS = (SEVERSTAL, *ENCODERS)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 3
"""Of each phase, in the trial."""
REPEATS = 5
"""Forward passes that are timed, after one that is not."""
HEADER = ("preset", "network", "million parameters", "GFLOP per image", "images/s", "weights", "their licence")


def count_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of a forward pass over `images`, a multiplication and an addition counted as two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops())


@torch.inference_mode()
def forward_rate(model: nn.Module, image: torch.Tensor) -> float:
    """Images a second, one at a time, on the device of `image`: the median of a few."""
    times: list[float] = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        model(image)["segmentation"][0, 0, 0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times[1:])


def measure_row(preset: Config) -> list[str]:
    """The table's line of one preset."""
    network = NetworkConfig(preset.model.architecture, preset.model.encoder, num_classes=4, in_channels=1)
    model = UnifiedModel(network).eval()
    image = torch.zeros(1, 1, *SIZE)
    flops = count_flops(model, image)
    laid_out = {"device": DEVICE, "memory_format": torch.channels_last}
    rate = forward_rate(model.to(**laid_out), image.to(**laid_out))
    published = find_published(preset.model.encoder)
    return [
        f"`{preset.preset}`",
        f"{network.architecture} on {network.encoder}",
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}",
        f"{flops / 1e9:.0f}",
        f"{rate:.2g}" if rate < 10 else f"{rate:.0f}",
        published.repository,
        licence_text(published.settings.get("license")),
    ]


def train_a_little(preset: Config, shards: Path, out: Path) -> int:
    """A run of a few steps of each phase from random weights, as a user starts it; the number of tensors it shipped."""
    few: Sequence[str] = [
        *("--phases.0.epochs", str(4 * STEPS / 12), "--phases.0.crop", "64", "128"),
        *("--phases.1.epochs", str(4 * STEPS / 12)),
        *(option for k in "01" for option in (f"--phases.{k}.batch-size", "4", f"--phases.{k}.micro-batch", "2")),
        *("--validation.tta", "--tracking.tracker", "none", "--runtime.workers", "0", "--model.weights", "none"),
    ]
    line = [sys.executable, "-m", "train.fit", "--preset", preset.preset, "--data", shards, "--out", out, *few]
    _run(line)
    return len(load_checkpoint(out / "model.safetensors").tensors)


def make_shards(folder: Path) -> Path:
    """Twenty small synthetic strips in five folds: twelve of them are trained on."""
    data, shards = folder / "data", folder / "shards"
    synth = ["steel.cli", "synth", data, "--num-train", 20, "--num-test", 1, "--height", 64, "--width", 200]
    prep = ["data_prep", "--images", data / "train_images", "--labels", data / "train.csv", "--out", shards]
    for line in (synth, prep):
        _run([sys.executable, "-m", *line])
    return shards


def _run(line: Sequence[object]) -> None:
    done = subprocess.run([str(part) for part in line], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(map(str, line))} failed:\n{done.stderr[-2000:]}")


def _where() -> str:
    if DEVICE.type == "cuda":
        return f"on one {torch.cuda.get_device_name()}"
    return f"{machine()}, {torch.get_num_threads()} threads (on a GPU: *not measured*)"


def describe_versions() -> str:
    """What the figures hang on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "segmentation-models-pytorch", "timm"))
    return f"{date.today()}, {packages}"


def page(rows: Sequence[Sequence[str]]) -> str:
    """The document."""
    words = (
        "Made by `python -m bench.encoders`. One gray image of 256x1600, four classes, forward pass; a multiplication "
        "and an addition count as two operations, and training costs about three times as many. Images a second are "
        f"passes of one image each in float32, {_where()}, the median of {REPEATS}. Each preset was "
        "trained for a few steps of each phase on 12 synthetic strips, validated and shipped, from random weights. "
        "**None has been judged on steel with these encoders**, the recipe of `severstal` with smaller ones "
        "([quality.md](quality.md)). More on licences: "
        "[docs/pretrained.md](../docs/pretrained.md)."
    )
    table = format_columns([list(HEADER), *map(list, rows)], markdown=True)
    return f"# Encoders of the presets\n\n{textwrap.fill(words, 120)}\n\n{table}\n\n({describe_versions()})\n"


def main() -> None:
    """Count and time every preset's network, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="the document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="encoders-") as folder:
        shards = make_shards(Path(folder))
        rows = []
        for preset in tqdm(PRESETS, unit="preset"):
            row = measure_row(preset)
            shipped = train_a_little(preset, shards, Path(folder) / preset.preset)
            tqdm.write(f"{preset.preset}: trained, {shipped} tensors shipped")
            rows.append(row)
    options.out.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
