"""What the `steel` command starts with: from here on Ctrl-C ends it in one line, also while the rest is imported."""

import sys

from steel.startup import imports_end_at_once


def main() -> int:
    """Entry point of the `steel` console command; returns the exit code."""
    with imports_end_at_once():
        from steel.cli import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
