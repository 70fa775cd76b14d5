"""The `steel` command. Each subcommand imports what it needs when it runs, so `--help` is instant and has no torch."""

import argparse
import sys
from collections.abc import Sequence

from steel import __version__
from steel.commands.common import LateParser, Parser
from steel.commands.data import add_compare, add_convert, add_explore, add_synth
from steel.commands.models import add_ensemble, add_export, add_info, add_predict
from steel.commands.serving import add_serve
from steel.errors import run_program
from steel.extensions import load_extensions

COMMANDS = (
    *(add_synth, add_convert, add_explore, add_predict, add_serve, add_compare, add_info, add_export),
    add_ensemble,
)
"""Each adds a subcommand with its options to the command line, and the function of the parsed arguments to run."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="steel", description="Steel-surface defects, from raw line-camera images to one checkpoint file."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=LateParser)
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """What `steel.__main__` starts; returns the exit code."""

    def run() -> int | None:
        arguments = build_parser().parse_args(argv)
        load_extensions()
        return arguments.run(arguments)

    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
