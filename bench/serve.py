"""`steel serve` under load: `python -m bench.serve` prints p50, p99 and images per second at 1, 4 and 16 clients.

Server and clients share the machine; each client sends one JPEG after another over its own connection, and asks for
JSON. Without `--model` the network is untrained, with thresholds that leave no masks, as on clean steel.
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
from pathlib import Path

import cv2
import numpy as np

CLIENTS = (1, 4, 16)
NUM_IMAGES = 16


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="model.safetensors or model.onnx; an untrained network when left out")
    parser.add_argument("--encoder", default="resnet18", help="of the untrained U-Net")
    parser.add_argument("--size", default="256x1600", help="height x width of the images")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-wait", default="5", help="milliseconds, as of `steel serve`")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    images = make_images(height, width)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or make_model(Path(folder), options.encoder)
        with running(model, ("--device", options.device, "--batch-wait", options.batch_wait)) as port:
            name = options.model or f"U-Net, {options.encoder}, untrained"
            print(f"{name}; JPEGs of {height}x{width}; {os.cpu_count()} cores, the clients' too\n")
            print("| clients | p50 | p99 | images/s |\n|---|---|---|---|")
            load(port, images, 1, min(2.0, options.seconds))  # the first passes are slower
            for clients in CLIENTS:
                times, seconds = load(port, images, clients, options.seconds)
                p50, p99 = (1000 * np.percentile(times, q) for q in (50, 99))
                print(f"| {clients} | {p50:.0f} ms | {p99:.0f} ms | {len(times) / seconds:.1f} |", flush=True)


def make_images(height: int, width: int) -> list[bytes]:
    """Clean synthetic strips as JPEG files."""
    from steel.synthetic.scene import draw_masks, render

    files = []
    for number in range(NUM_IMAGES):
        rng = np.random.default_rng(number)
        masks, extent = draw_masks(rng, frozenset(), height, width)
        files.append(cv2.imencode(".jpg", render(rng, masks, extent, height, width))[1].tobytes())
    return files


def make_model(folder: Path, encoder: str) -> str:
    """A checkpoint of an untrained network that finds nothing."""
    import torch

    from steel.checkpoint import Checkpoint, save_checkpoint
    from steel.config import NetworkConfig
    from steel.decision import ClassDecision, Decision
    from steel.model.network import UnifiedModel

    torch.manual_seed(0)
    network = NetworkConfig("Unet", encoder, 4, 1)
    tensors = {name: tensor.detach()[None] for name, tensor in UnifiedModel(network).state_dict().items()}
    decision = Decision((ClassDecision(pixel_threshold=255),) * 4)
    names = tuple(f"class {k}" for k in range(1, 5))
    save_checkpoint(folder / "model.safetensors", Checkpoint(network, names, (0.4,), (0.2,), tensors, decision))
    return str(folder / "model.safetensors")


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
