"""A tracker that starts a process of its own is up before training forks the first worker."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.tracking.trackers import TRACKERS, NullTracker
from tests.numerics.quick import quicken
from train.fit import main

OPTIONS = (
    "--preset smoke --phases.0.epochs 1 --phases.1.epochs 0.1 --phases.0.batch-size 2 "
    "--phases.0.micro-batch 1 --phases.1.batch-size 2 --phases.1.micro-batch 1 "
    "--tracking.log-every 1 --tracking.tracker wandb --runtime.workers 1 --runtime.precision no --validation.tta"
).split()


class StartsAProcess(NullTracker):
    """Waits as `subprocess.Popen` does for a pipe to be closed, by its child and by whoever was forked meanwhile."""

    def __init__(self, run_dir: Path) -> None:
        self.history = run_dir / "history.jsonl"
        self.records_at_log: list[int] = []
        """How many records the history had when each arrived."""
        reading, writing = os.pipe()
        deadline = time.monotonic() + 2.0  # what a process may take to start; long enough for a worker to be forked
        while not multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)

    def log(self, record: Any, step: int) -> None:
        self.records_at_log.append(len(self.history.read_text().splitlines()))


@pytest.mark.usefixtures("fresh_accelerate", "no_children")
def test_the_first_record_arrives_during_the_first_phase(monkeypatch, tiny_shards, tmp_path):
    quicken(monkeypatch)
    torch.set_num_threads(1)
    monkeypatch.setenv("WANDB_MODE", "offline")
    backends: list[StartsAProcess] = []

    def start(config: object, run_dir: Path, *others: object) -> StartsAProcess:
        backends.append(StartsAProcess(run_dir))
        return backends[-1]

    monkeypatch.setitem(TRACKERS, "wandb", replace(TRACKERS["wandb"], open=start))
    assert main([*OPTIONS, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]) == 0
    (backend,) = backends
    steps, records = 5, 8  # of the first phase; of the run, with a validation of each phase
    assert len(backend.records_at_log) == records
    assert backend.records_at_log[0] < steps
