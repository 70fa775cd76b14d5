"""What `python -m bench.quality` starts with: Ctrl-C ends it in one line, also while the rest is imported."""

import sys

from steel.errors import run_program
from steel.startup import imports_end_at_once


def main() -> int:
    """Entry point; returns the exit code."""
    with imports_end_at_once():
        from bench.quality.cli import main as run

        return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
