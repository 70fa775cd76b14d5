"""What a large image takes: `python -m bench.large_image` writes `bench/large_image.md`.

`steel predict` of one image of 20000x4096 in tiles, on a CPU, with torch and with the exported graph of the same
untrained network: the most memory that the process has held, and its time, the program's start included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bench.serve import make_models
from bench.speed.run import machine
from bench.speed.worker import ROOT

MOST_GB = 3.0
"""What such an image may take, in units of 10**9 bytes."""


class Taken(NamedTuple):
    """By one process."""

    gigabytes: float
    """Its largest resident set, in units of 10**9 bytes."""
    seconds: float


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.large_image", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--encoder", default="resnet18", help="of the untrained U-Net")
    parser.add_argument("--size", default="20000x4096", help="height x width of the image")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "large_image.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    load = os.getloadavg()[0]
    lines = [
        "# A large image",
        "",
        f"Made by `{' '.join(['python -m bench.large_image', *sys.argv[1:]])}`: `steel predict` of one gray image of "
        f"{options.size}, as PNG, by an untrained U-Net on {options.encoder}; plain view, tiles as by default. The "
        f"program's start is included. {machine()}, load average {load:.1f} at the start; torch {version('torch')}, "
        f"onnxruntime {version('onnxruntime')}.",
        "",
        "| model | most memory | target | time | megapixels/s |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        image = make_image(Path(folder), height, width)
        for model in make_models(Path(folder), options.encoder):
            taken = predict(model, image, Path(folder, f"from-{model.suffix[1:]}"))
            name = "torch" if model.suffix == ".safetensors" else "onnxruntime"
            reached = "reached" if taken.gigabytes < MOST_GB else "**missed**"
            lines.append(
                f"| {name} | {taken.gigabytes:.2f} GB | under {MOST_GB:g} GB: {reached} | {taken.seconds:.0f} s | "
                f"{height * width / 1e6 / taken.seconds:.2f} |"
            )
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out.read_text())


def make_image(folder: Path, height: int, width: int) -> Path:
    """A gray image of smooth noise as PNG."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 180, (height // 16 + 1, width // 16 + 1), np.uint8)
    path = folder / "large.png"
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    return path


def predict(model: Path, image: Path, out: Path) -> Taken:
    """What `steel predict` of the image takes."""
    begun = time.perf_counter()
    line = [sys.executable, "-m", "steel.cli", "predict", str(model), str(image), "--out", str(out)]
    process = subprocess.Popen(line, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: steel predict ended with exit code {process.returncode}")
    return Taken(usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
