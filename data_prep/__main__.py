"""Turn a folder of images and their masks into shards: `python -m data_prep --help`."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext

from data_prep.arguments import (
    add_depth_argument,
    add_executor_arguments,
    add_split_arguments,
    add_tile_arguments,
    depth_from,
    parse_part,
    parse_size,
    split_options_from,
    tile_from,
)
from data_prep.job import Result, join_job, run_job
from data_prep.options import Options
from steel.commands.common import Parser
from steel.errors import run_program, told_url
from steel.executors import open_executor
from steel.extensions import load_extensions
from steel.labels.arguments import add_label_arguments, label_options_from
from steel.option_values import positive, whole


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m data_prep`."""
    parser = Parser(
        prog="python -m data_prep",
        description="Turn a folder of images and their masks into shards for training. Killed at any moment, the same "
        "command goes on where it was. Folders may be local paths or URLs (s3://...).",
    )
    source = parser.add_argument_group("input")
    add_label_arguments(source)
    add_depth_argument(source)

    target = parser.add_argument_group("output")
    target.add_argument("--out", required=True, metavar="DIR", help="folder of the shards; new, or an unfinished job")
    target.add_argument("--prefix", default=Options.prefix, help="start of the shards' file names")
    target.add_argument("--shard-size", type=whole, default=Options.shard_size, metavar="N", help="images per shard")
    target.add_argument(
        "--resize",
        type=parse_size,
        metavar="HxW",
        help="store images at this height and width, as 128x800; masks keep their size",
    )
    add_tile_arguments(target)
    add_split_arguments(parser.add_argument_group("folds"))

    running = parser.add_argument_group("running")
    add_executor_arguments(running)
    parts = running.add_mutually_exclusive_group()
    parts.add_argument(
        "--part",
        type=parse_part,
        metavar="K/N",
        help="write only the K-th of N parts, as 1/8, for jobs that run at the same time; then --join N",
    )
    parts.add_argument("--join", type=positive, metavar="N", help="the last step after all N parts: index and manifest")
    return parser


def main(argv: Sequence[str] | None = None, executor: Executor | None = None) -> int:
    """Entry point; returns the exit code.

    Args:
        argv: The command line; the process's own when None.
        executor: Runs the work instead of what `--executor` names: any executor of `concurrent.futures`, a cluster's
            for example. It is left open.
    """

    def run() -> None:
        load_extensions()  # before the options, to which they add
        _run(build_parser().parse_args(argv), executor)

    return run_program(run)


def _run(arguments: argparse.Namespace, executor: Executor | None) -> None:
    options = Options(
        images=arguments.images,
        out=arguments.out,
        labels=arguments.labels,
        label_options=label_options_from(arguments),
        prefix=arguments.prefix,
        shard_size=arguments.shard_size,
        split_options=split_options_from(arguments),
        resize=arguments.resize,
        tile=tile_from(arguments),
        depth=depth_from(arguments),
    )
    if arguments.join is not None:
        _tell(arguments, join_job(options, arguments.join))
        return
    own = (
        nullcontext(executor)
        if executor is not None
        else open_executor(arguments.executor, arguments.workers, goes_on=True)
    )
    with own as runs:
        _tell(arguments, run_job(options, runs, workers=arguments.workers, part=arguments.part, tell=_say))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _tell(arguments: argparse.Namespace, result: Result) -> None:
    out = told_url(arguments.out)
    if result.already_finished:
        lines = [f"{out}: already finished, nothing to do"]
        if result.not_compared:
            lines.append(f"not compared with what it was made of: {result.not_compared}")
    elif result.summary is None:
        k, n = arguments.part
        lines = [f"{out}: part {k} of {n} is complete; when all are, run --join {n}"]
    else:
        lines = [*result.summary.lines(), f"wrote {out}"]
    lines += result.left_out
    _say("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
