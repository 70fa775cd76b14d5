"""launch/torchrun/train.sh: a signal to the launcher reaches the ranks, which save."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.launching import TINY, environment
from tests.paths import ROOT
from tests.watching import ranks_of, status, steps_done

pytestmark = pytest.mark.slow

LONG = [*TINY, "--phases.0.epochs", "25", "--validation.every-epochs", "25", "--runtime.save-every", "3"]


@pytest.fixture
def training(tiny_shards: Path, tmp_path: Path):
    """A run of two elastic ranks that has done a few steps; its launcher and its run folder."""
    run = tmp_path / "run"
    with open(tmp_path / "log", "wb") as log:
        launcher = subprocess.Popen(
            ["launch/torchrun/train.sh", "smoke", str(tiny_shards), str(run), *LONG[2:]],
            cwd=ROOT,
            env=environment(PROCESSES="2", PYTHON=sys.executable),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: steps_done(run) >= 4 or launcher.poll() is not None, tmp_path / "log")
        assert launcher.poll() is None, (tmp_path / "log").read_text()
        yield launcher, run
    finally:
        launcher.kill()
        launcher.wait()


def wait_until(condition: Callable[[], bool], log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_to_the_launcher_saves_the_run(training, tmp_path, number):
    launcher, run = training
    launcher.send_signal(number)
    launcher.wait(60)
    wait_until(lambda: not ranks_of(run), tmp_path / "log")
    assert status(run)["state"] == "interrupted", (tmp_path / "log").read_text()
    assert any((run / "states").iterdir())
