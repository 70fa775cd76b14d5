"""Starts the training programs the way a user does."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

TINY = (
    "--preset smoke --validation.every-epochs 1 --runtime.workers 0 --tracking.tracker none --tracking.log-every 1 "
    "--validation.tta hflip"
).split()
"""A run of seconds, with everything on: augmentation, dropout, moving average, two phases, several micro-batches."""


def command(processes: int, module: str, arguments: Sequence[Any]) -> list[str]:
    """`accelerate launch` for two processes, plain Python for one, torchrun for more."""
    start = {
        1: [sys.executable],
        2: [
            sys.executable,
            *(
                "-m",
                "accelerate.commands.launch",
                "--config_file",
                "launch/accelerate/cpu2.yaml",
                "--main_process_port",
                "0",
            ),
        ],
    }.get(
        processes, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    )
    return [*start, "-m", module, *map(str, arguments)]


def environment(**extra: str) -> Mapping[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)} | extra


def run(
    processes: int, module: str, *arguments: Any, check: bool = True, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end; with `check`, fail with the program's own output."""
    done = subprocess.run(
        command(processes, module, arguments),
        cwd=ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done


def start(processes: int, module: str, *arguments: Any, **extra: str) -> subprocess.Popen[str]:
    """Start in a process group of its own; see `kill_group`."""
    return subprocess.Popen(
        command(processes, module, arguments),
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str]) -> None:
    """kill -9 the launcher and whatever it keeps in its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
