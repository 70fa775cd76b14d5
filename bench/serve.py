"""`steel serve` under load: `python -m bench.serve` writes `bench/serve.md`.

Latency and images per second at 1, 4 and 16 clients, with torch and with the exported graph of the same network. Beside
them stands the same work without a service: `Predictor` on the same files in one process. Server and clients share the
machine; each client sends one JPEG after another over its own connection, and asks for JSON. The network is untrained,
with thresholds that leave no masks, as on clean steel.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from bench.speed.run import machine
from bench.speed.worker import ROOT

CLIENTS = (1, 4, 16)
NUM_IMAGES = 16
WARM_SECONDS = 2.0
"""The first passes are slower and count nothing."""


class Load(NamedTuple):
    """What so many clients saw of a server."""

    clients: int
    p50: float
    """Milliseconds."""
    p99: float
    """Milliseconds."""
    rate: float
    """Images per second of all clients together."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.serve", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--encoder", default="resnet18", help="of the untrained U-Net")
    parser.add_argument("--size", default="256x1600", help="height x width of the images")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--device", default="auto", help="of torch")
    parser.add_argument("--batch-wait", default="5", help="milliseconds, as of `steel serve`")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "serve.md", metavar="FILE", help="the table")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    started = os.getloadavg()[0]
    images = make_images(height, width)
    lines = [
        "# The service under load",
        "",
        f"Made by `python -m bench.serve{_given()}`: {options.seconds:g} s for each number of clients. U-Net on "
        f"{options.encoder}, untrained; JPEGs of {height}x{width}. {machine()}, the clients' too; load average "
        f"{started:.1f} at the start; torch {version('torch')}, onnxruntime {version('onnxruntime')}. *Without a "
        "service* is `Predictor` on the same files in one process, one after another.",
        "",
        "| model | clients | p50 | p99 | images/s | without a service |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        for path in make_models(Path(folder), options.encoder):
            alone = rate_alone(path, images, options.device, options.seconds)
            for found in measure(path, images, options):
                lines.append(
                    f"| {'torch' if path.suffix == '.safetensors' else 'onnxruntime'} | {found.clients} | "
                    f"{found.p50:.0f} ms | {found.p99:.0f} ms | {found.rate:.1f} | {alone:.1f} images/s |"
                )
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.out.read_text())


def _given() -> str:
    return "".join(f" {word}" for word in sys.argv[1:])


def measure(model: Path, images: Sequence[bytes], options: argparse.Namespace) -> Iterator[Load]:
    """A server of a model under each number of clients."""
    device = ("--device", options.device) if model.suffix == ".safetensors" else ()
    with running(str(model), (*device, "--batch-wait", options.batch_wait)) as port:
        load(port, images, 1, min(WARM_SECONDS, options.seconds))
        for clients in CLIENTS:
            times, seconds = load(port, images, clients, options.seconds)
            p50, p99 = (float(1000 * np.percentile(times, q)) for q in (50, 99))
            yield Load(clients, p50, p99, len(times) / seconds)


def rate_alone(model: Path, images: Sequence[bytes], device: str, seconds: float) -> float:
    """Images per second, decoded and predicted in this process without a service."""
    from steel.inference.load import load_predictor

    predictor = load_predictor(str(model), device=device)

    def endless(until: float) -> Iterator[np.ndarray]:
        number = 0
        while time.perf_counter() < until:
            yield cv2.imdecode(np.frombuffer(images[number % len(images)], np.uint8), cv2.IMREAD_GRAYSCALE)
            number += 1

    for _ in predictor.predict_stream(endless(time.perf_counter() + min(WARM_SECONDS, seconds))):
        pass
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


def load(port: int, images: Sequence[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request of so many clients that ask without a pause, and of the whole."""
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
    return [one for some in times for one in some], time.perf_counter() - begun


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
    main()
