"""Talks to the test's SLURM cluster as a user would: sbatch, squeue, scontrol."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.paths import ROOT

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")


class Cluster:
    """A running cluster; jobs start in the checkout and log to `logs`."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self.environment = environment
        self.logs = logs

    def run(self, *command: Any) -> str:
        """A command's output; fails with its errors."""
        done = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments: Any) -> str:
        """Queue a batch job; its number."""
        return self.run("sbatch", "--parsable", f"--output={self.logs}/%A-%a.log", *arguments)

    def log(self, job: str) -> str:
        """What the job and its array tasks have printed so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.logs.glob(f"{job}-*.log")))

    def field(self, job: str, name: str) -> set[str]:
        """A field of `scontrol show job`, of each array task."""
        return set(re.findall(rf"\b{name}=(\S+)", self.run("scontrol", "show", "job", job)))

    def wait_for_end(self, job: str, seconds: float = 300) -> set[str]:
        """Wait until the job has left the queue for good; how it ended, of each array task."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        self.wait_until(lambda: self.field(job, "JobState") <= ended, f"job {job} to end", job, seconds)
        return self.field(job, "JobState")

    def wait_until(self, condition: Callable[[], bool], what: str, job: str, seconds: float = 120) -> None:
        """Wait for something; fails with the job's log."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}\n{self.log(job)}"
            time.sleep(0.2)
