"""What a table was made with: the command as it was given, the commit and the day, the machine and how busy it was."""

import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16"}
"""What decides how fast a processor computes, by the name that Linux has for it, in the order in which it came."""


class Begun(NamedTuple):
    """When a program began to measure."""

    seconds: float
    """Of the performance counter."""
    load: float
    """Average of the last minute."""


def begin() -> Begun:
    """To be called before anything is measured. From here on SIGTERM ends the program and, as Ctrl-C, what it started.

    For a signal that is not handled leaves no time to end others.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return Begun(time.perf_counter(), os.getloadavg()[0])


def facts_of_run(program: str, begun: Begun, packages: Sequence[str]) -> dict[str, Any]:
    """What every table says of its making, by name.

    Args:
        program: the module that this process runs.
        begun: of `begin`.
        packages: whose versions the figures hang on.
    """
    return {
        "made by": made_by(program),
        "machine": machine(),
        "load average": f"{begun.load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end",
        "priority": f"nice {os.nice(0)}",
        "wall time": f"{time.perf_counter() - begun.seconds:,.0f} s",
        "versions": {"Python": sys.version.split()[0], **{name: version(name) for name in packages}},
    }


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """Facts as a list of Markdown."""
    return [
        f"- {name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}"
        for name, value in facts.items()
    ]


def median_and_spread(values: Sequence[float], form: str) -> str:
    """`5.2 (4.9 to 6.0)`: the median, the smallest and the largest, each as `form` has it, such as `.1f`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def machine() -> str:
    """The processor in words, with what instructions it has."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    has = [words for flag, words in INSTRUCTIONS.items() if flag in told.get("flags", "").split()]
    model = told.get("model name") or platform.processor()
    return ", ".join([model, f"{len(os.sched_getaffinity(0))} cores used", *has])


def made_by(program: str) -> str:
    """Of the module that this process runs, in words: "`python -m bench.speed --repeats 7` at 1a2b3c4, 2026-01-31"."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # no one else has the rest
    command = shlex.join(["python", "-m", program, *words])
    return f"`{command}` at {commit() or 'an unknown commit'}, {date.today()}"


def commit() -> str:
    """The project's, short; empty outside of a repository."""
    try:
        line = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git
        return ""
