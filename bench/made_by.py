"""What a table was made with: the command as it was given, the commit and the day."""

import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]


def made_by(program: str) -> str:
    """Of the module that this process runs, in words: "`python -m bench.speed --repeats 7` at 1a2b3c4, 2026-01-31"."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # no one else has the rest
    command = shlex.join(["python", "-m", program, *words])
    return f"`{command}` at {_commit() or 'an unknown commit'}, {date.today()}"


def _commit() -> str:
    """Short; empty outside of a repository."""
    try:
        line = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git
        return ""
