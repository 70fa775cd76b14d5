"""The `steel` command. Each subcommand imports what it needs when it runs, so `--help` is instant and has no torch."""

import argparse
import sys
from collections.abc import Sequence

from steel.errors import run_program


def _add_synth(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("synth", help="make a Severstal-shaped data set")
    parser.add_argument("out")

    def run(arguments: argparse.Namespace) -> None:
        raise NotImplementedError

    parser.set_defaults(run=run)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each subcommand sets `run`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(prog="steel", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_synth,):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `steel` console command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return run_program(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
