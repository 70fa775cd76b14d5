"""A W&B server that is silent from the start or falls silent later: training ends on time and keeps the figures."""

import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

TRAINING = """
    import sys, time
    from pathlib import Path
    from steel.config import TrackingConfig
    from steel.tracking import wandb_backend
    from steel.tracking.trackers import build_tracker

    wandb_backend.START_SECONDS = 3.0
    run_dir = Path(sys.argv[1])
    tracker = build_tracker(TrackingConfig(tracker="wandb"), run_dir, {"preset": "smoke"}, attempt=1)
    start = time.perf_counter()
    for step in range(100):
        tracker.log({"train/loss": 1 / (step + 1)}, step)
        time.sleep(0.02)
    assert time.perf_counter() - start < 4, "logging slowed the loop down"
    tracker.finish("finished")
    print("trained")
"""


class SilentServer(http.server.BaseHTTPRequestHandler):
    """Accepts a run when `accepts_runs`, and answers nothing after that."""

    protocol_version = "HTTP/1.1"
    accepts_runs = False
    released = threading.Event()

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers["content-length"] or 0)).decode(errors="replace")
        if not (self.accepts_runs and "upsertBucket" in query):
            self.released.wait(120)
            return
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        bucket = {"id": "b", "name": "abcd1234", "displayName": "run", "config": "{}", "project": project}
        answer = json.dumps({"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(params=["silent", "silent once a run is accepted"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type(
        "Handler", (SilentServer,), {"accepts_runs": request.param != "silent", "released": threading.Event()}
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        handler.released.set()
        server.shutdown()


@pytest.mark.slow
def test_a_silent_server_neither_slows_nor_keeps_a_run(server, tmp_path):
    home = {name: str(tmp_path) for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    environment = {**os.environ, **home, "WANDB_BASE_URL": server, "WANDB_API_KEY": "0" * 40}
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINING), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "trained\n"
    assert time.perf_counter() - start < 45
    figures = list((tmp_path / "wandb").glob("*run-*/*.wandb"))
    assert any(b"train/loss" in file.read_bytes() for file in figures)
