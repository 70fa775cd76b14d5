"""Starts the training programs the way a user does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.paths import ROOT

TINY = (
    "--preset smoke --validation.every-epochs 1 --runtime.workers 0 --tracking.tracker none --tracking.log-every 1 "
    "--validation.tta hflip --runtime.precision no"
).split()
"""A run of seconds, with everything on: augmentation, dropout, moving average, two phases, several micro-batches."""


ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/cpu2.yaml")


def torchrun(processes: int, *options: str) -> list[str]:
    """The start of a torchrun command on this machine."""
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return [*start, *options]


def command(processes: int, module: str, arguments: Sequence[Any]) -> list[str]:
    """`accelerate launch` for two processes, plain Python for one, torchrun for more."""
    starts = {1: [sys.executable], 2: [sys.executable, *ACCELERATE]}
    return [*starts.get(processes, torchrun(processes)), "-m", module, *map(str, arguments)]


def leaking(limit: str | Path, arguments: Sequence[Any]) -> list[str]:
    """Training by two ranks, of which the second asks for ever more memory; see leaking_fit.py."""
    return [*torchrun(2), "tests/distributed/programs/leaking_fit.py", str(limit), *map(str, arguments)]


def environment(**extra: str) -> Mapping[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)} | extra


def run(
    processes: int, module: str, *arguments: Any, check: bool = True, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end; with `check`, fail with the program's own output."""
    return _finish(command(processes, module, arguments), check, extra)


def run_script(
    processes: int, script: str, *arguments: Any, check: bool = True, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository under torchrun to its end; with `check`, fail with its own output."""
    return _finish([*torchrun(processes), script, *map(str, arguments)], check, extra)


def _finish(line: list[str], check: bool, extra: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(line, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=500)
    assert not check or done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done


class Job:
    """A launched training job, to be met in the middle."""

    def __init__(self, line: Sequence[str], log: Path, out: Path, **extra: str) -> None:
        """Start `line`, whose run folder is `out`, its output appended to `log`."""
        self.log, self.out = log, out
        self._before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.launcher = subprocess.Popen(
                line, cwd=ROOT, env=environment(**extra), stdout=output, stderr=output, start_new_session=True
            )
        self._known: set[int] = set()

    def wait_for_step(self, step: int, timeout: float = 120) -> None:
        """Wait until this attempt has logged `step` of the first phase or a later one; needs a log every step."""
        deadline = time.monotonic() + timeout
        history = self.out / "history.jsonl"
        while time.monotonic() < deadline and self.launcher.poll() is None:
            lines = history.read_text().splitlines() if history.exists() and self.ranks() else []
            if lines and lines[-1].endswith("}") and json.loads(lines[-1])["global_step"] >= step:
                self.family()
                return
            time.sleep(0.05)
        raise AssertionError(f"step {step} was not reached:\n{self.output()}")

    def ranks(self) -> list[int]:
        """The processes of the ranks that are alive, in the order of their start."""
        return [
            process
            for process in children(self.launcher.pid)
            if any(
                name in command_line(process)
                for name in (b"train.fit", b"train.crossval", b"recording_fit", b"leaking_fit")
            )
        ]

    def family(self) -> list[int]:
        """Ranks and data-loader workers that are alive, also those whose parents are gone."""
        for rank in self.ranks():
            self._known |= {rank, *children(rank)}
        return sorted(process for process in self._known if is_alive(process))

    def wait(self, timeout: float = 90) -> int:
        """The launcher's exit code."""
        return self.launcher.wait(timeout)

    def output(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._before)
            return file.read().decode(errors="replace")

    def end(self) -> None:
        """Kill what is left."""
        for process in self.family():
            os.kill(process, signal.SIGKILL)
        if self.launcher.poll() is None:
            self.launcher.kill()
            self.launcher.wait()


def children(process: int) -> list[int]:
    """Direct children, in the order of their start."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(process: int) -> bool:
    """Whether a process runs, or is stopped, but is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
