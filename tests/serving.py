"""A service in a process of its own, for tests, and a tiny model for it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steel.checkpoint import Checkpoint, save_checkpoint
from steel.config import NetworkConfig
from steel.decision import ClassDecision, Decision
from steel.model.network import UnifiedModel
from tests.paths import ROOT

CLASS_NAMES = ("spot", "trace")
DECISION = Decision(tuple(ClassDecision(pixel_threshold=t) for t in (120, 140)))


def save_tiny_model(path: Path, provenance: Mapping[str, Any] | None = None, *, decision: Decision = DECISION) -> None:
    """A checkpoint with random weights that finds something in noise."""
    torch.manual_seed(0)
    network = NetworkConfig("Unet", "tu-test_resnet", num_classes=2, in_channels=1, decoder_channels=(8, 8))
    model = UnifiedModel(network)
    with torch.no_grad():
        model.segmentation_head[0].weight.mul_(20)
    tensors = {name: tensor.detach()[None] for name, tensor in model.state_dict().items()}
    checkpoint = Checkpoint(network, CLASS_NAMES, (0.4,), (0.2,), tensors, decision, provenance=dict(provenance or {}))
    save_checkpoint(path, checkpoint)


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server(NamedTuple):
    """A running `steel serve`."""

    process: subprocess.Popen[str]
    port: int

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def metric(self, line: str) -> float:
        """The value of a line of /metrics that begins so."""
        (value,) = re.findall(rf"^{re.escape(line)} (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE)
        return float(value)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(model: Path, *options: str, code: str = "") -> Iterator[Server]:
    """A server of a model on a free port; `code` is run in its process first."""
    start = f"import sys\n{code}\nfrom steel.cli import main\nsys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", start, "serve", str(model), "--port", "0", "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.fullmatch(rf"{re.escape(str(model))}: served at http://127\.0\.0\.1:(\d+)\n", said)
            assert found is not None, said
            yield Server(process, int(found[1]))
        finally:
            process.kill()
