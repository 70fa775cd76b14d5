"""`steel serve` under load: `python -m bench.serve` writes `bench/serve.md`.

Latency and images per second at 1, 4 and 16 clients, with torch and with the exported graph of the same network. Beside
them stands the same work without a service: `Predictor` on the same files in one process, which takes turns with the
clients. Server and clients share the machine; each client sends one JPEG after another over its own connection, and
asks for JSON. The network is untrained, with thresholds that leave no masks, as on clean steel.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bench.made_by import begin, fact_lines, facts_of_run, median_and_spread
from bench.speed.worker import ROOT
from data_prep.arguments import parse_size
from steel.commands.common import Parser, make_way
from steel.errors import run_program
from steel.inference.predictor import choose_device
from steel.option_values import milliseconds, positive

CLIENTS = (1, 4, 16)
NUM_IMAGES = 16


class Load(NamedTuple):
    """What clients saw of a server in one round."""

    p50: float
    """Milliseconds."""
    p99: float
    """Milliseconds."""
    rate: float
    """Images per second of all clients together."""


class Served(NamedTuple):
    """A model's rounds."""

    alone: list[float]
    """Images per second without a service, of each round."""
    loads: dict[int, list[Load]]
    """Of each round, by the number of clients."""


def main() -> None:
    """Entry point."""
    parser = Parser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--encoder", default="resnet18", help="of the untrained U-Net")
    parser.add_argument("--size", type=parse_size, default=(256, 1600), metavar="HxW", help="of the images")
    parser.add_argument("--seconds", type=positive, default=10, help="of each number of clients in each round")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="that count, after one that does not")
    parser.add_argument("--device", default="auto", help="of torch")
    parser.add_argument("--batch-wait", type=milliseconds, default=5.0, metavar="MS", help="as of `steel serve`")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "serve.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    make_way([], [str(options.out)])
    choose_device(options.device)
    begun, images = begin(), make_images(*options.size)
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        models = make_models(Path(folder), options.encoder)
        found = {name_of(path): measure(path, images, options) for path in models}
    facts = facts_of_run("bench.serve", begun, ("torch", "onnxruntime")) | {
        "repeats": f"{options.repeats} of {options.seconds} s for each number of clients"
    }
    options.out.write_text(page(found, facts, options), encoding="utf-8")
    print(options.out.read_text())


def page(found: Mapping[str, Served], facts: Mapping[str, Any], options: argparse.Namespace) -> str:
    """The document: of each model by name, all that was measured."""
    height, width = options.size
    words = (
        f"`steel serve` of a U-Net on {options.encoder}, untrained, asked for JPEGs of {height}x{width} by clients "
        "that share its machine. Medians over the repeats, after one that does not count, with the smallest and the "
        "largest in brackets; p50 and p99 are of a repeat's requests. *Without a service* is `Predictor` on the same "
        "files in one process, one after another, in turn with the clients."
    )
    lines = ["# The service under load", "", textwrap.fill(words, 120), "", *fact_lines(facts), ""]
    header = "| model | clients | p50, ms | p99, ms | images/s | images/s without a service |"
    lines += [header, "|---" * 6 + "|"]
    for name, served in found.items():
        alone = median_and_spread(served.alone, ".1f")
        for clients, loads in served.loads.items():
            p50, p99, rate = zip(*loads, strict=True)
            cells = [median_and_spread(p50, ".0f"), median_and_spread(p99, ".0f"), median_and_spread(rate, ".1f")]
            lines.append(f"| {name} | {clients} | {' | '.join(cells)} | {alone} |")
    return "\n".join(lines) + "\n"


def name_of(model: Path) -> str:
    """What runs a model."""
    return "torch" if model.suffix == ".safetensors" else "onnxruntime"


def measure(model: Path, images: Sequence[bytes], options: argparse.Namespace) -> Served:
    """Each number of clients in turn and the same work without them, after a round that does not count."""
    from steel.inference.load import load_predictor

    device = ("--device", options.device) if model.suffix == ".safetensors" else ()
    served = Served([], {clients: [] for clients in CLIENTS})
    with running(str(model), (*device, "--batch-wait", f"{options.batch_wait:g}")) as port:
        predictor = load_predictor(str(model), device=options.device)
        for turn in range(options.repeats + 1):
            alone = rate_alone(predictor, images, options.seconds)
            loads = [load(port, images, clients, options.seconds) for clients in CLIENTS]
            if turn:
                served.alone.append(alone)
                for clients, one in zip(CLIENTS, loads, strict=True):
                    served.loads[clients].append(one)
    return served


def rate_alone(predictor: Any, images: Sequence[bytes], seconds: float) -> float:
    """Images per second, decoded and predicted in this process without a service."""

    def endless(until: float) -> Iterator[np.ndarray]:
        number = 0
        while time.perf_counter() < until:
            image = cv2.imdecode(np.frombuffer(images[number % len(images)], np.uint8), cv2.IMREAD_GRAYSCALE)
            assert image is not None
            yield image
            number += 1

    begun = time.perf_counter()
    done = sum(1 for _ in predictor.predict_stream(endless(begun + seconds)))
    return done / (time.perf_counter() - begun)


def make_images(height: int, width: int) -> list[bytes]:
    """Clean synthetic strips as JPEG files."""
    from steel.synthetic.scene import draw_masks, render

    files = []
    for number in range(NUM_IMAGES):
        rng = np.random.default_rng(number)
        masks, extent = draw_masks(rng, frozenset(), height, width)
        files.append(cv2.imencode(".jpg", render(rng, masks, extent, height, width))[1].tobytes())
    return files


def make_models(folder: Path, encoder: str) -> list[Path]:
    """A checkpoint of an untrained network that finds nothing, and its graph."""
    import torch

    from steel.checkpoint import Checkpoint, save_checkpoint
    from steel.config import NetworkConfig
    from steel.decision import ClassDecision, Decision
    from steel.inference.onnx_export import export_onnx
    from steel.model.network import UnifiedModel

    torch.manual_seed(0)
    network = NetworkConfig("Unet", encoder, 4, 1)
    tensors = {name: tensor.detach()[None] for name, tensor in UnifiedModel(network).state_dict().items()}
    decision = Decision((ClassDecision(pixel_threshold=255),) * 4)
    names = tuple(f"class {k}" for k in range(1, 5))
    paths = [folder / "model.safetensors", folder / "model.onnx"]
    checkpoint = Checkpoint(network, names, (0.4,), (0.2,), tensors, decision)
    save_checkpoint(paths[0], checkpoint)
    export_onnx(checkpoint, paths[1])
    return paths


@contextmanager
def running(model: str, options: Sequence[str]) -> Iterator[int]:
    """The port of a server of a model, in a process of its own, stopped at the end."""
    line = [sys.executable, "-m", "steel.cli", "serve", model, "--port", "0", *options]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r":(\d+)$", said.strip())
            if found is None:
                sys.exit(f"error: the server did not start: {said}")
            yield int(found[1])
            process.send_signal(signal.SIGTERM)
            if process.wait(60):
                sys.exit(f"error: the server ended with exit code {process.returncode}")
        finally:
            process.kill()


def load(port: int, images: Sequence[bytes], clients: int, seconds: float) -> Load:
    """What so many clients see that ask without a pause for so long."""
    times: list[list[float]] = [[] for _ in range(clients)]
    begun = time.perf_counter()
    threads = [
        threading.Thread(target=_ask, args=(port, images, number, begun + seconds, times[number]))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(times):
        sys.exit("error: a client got no prediction; the server's log says why")
    whole = time.perf_counter() - begun
    p50, p99 = (float(1000 * np.percentile(np.concatenate(times), q)) for q in (50, 99))
    return Load(p50, p99, sum(map(len, times)) / whole)


def _ask(port: int, images: Sequence[bytes], first: int, end: float, times: list[float]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    number = first
    while time.perf_counter() < end:
        begun = time.perf_counter()
        connection.request("POST", "/predict", images[number % len(images)])
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            times.clear()
            return
        times.append(time.perf_counter() - begun)
        number += 1
    connection.close()


if __name__ == "__main__":
    sys.exit(run_program(main))
