"""The command line of the training programs: a preset, and any of its fields on top."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import tyro

from steel.checkpoint import read_header
from steel.checkpoint_header import digest_content
from steel.commands.common import Parser, local_folder
from steel.config import Config
from steel.distributed.runtime import Runtime, launcher_rank
from steel.errors import InputError, SharedError
from steel.extensions import VARIABLE, load_extensions
from steel.shards.reader import ShardReader
from train.budget import Budget, parse_budget
from train.engine.run_folder import RunFolderError
from train.fitting import fit_preset
from train.options import build_registry, check_names, parse_fields
from train.presets import AUTO, PRESETS, get_preset
from train.recipe_reasons import explain_changes


@dataclass(frozen=True)
class FitArguments:
    """What a training run was asked to do."""

    data: str
    out: str
    resume: Literal["auto", "never"]
    init_from: str | None
    config: Config
    test_folds_given: bool
    """`--folds.test` was named; a cross-validation otherwise keeps no fold back."""
    budget: Budget = field(default_factory=Budget)
    words: tuple[str, ...] = ()
    """The command line."""

    @property
    def start_option(self) -> str:
        """The option that names the first weights."""
        return "--model.weights" if self.init_from is None else "--init-from"

    def at_passes(self, passes: float, reader: ShardReader | None = None) -> Config:
        """The configuration of the same command line, but for a budget of so many passes; with a reader of its shards
        they are not opened again."""
        config = _parse_fit("train.fit", [*self.words, "--budget", f"{passes:g}passes"], reader=reader).config
        return replace(_with_identity(config), extensions=self.config.extensions)

    def wants_time_fitted(self, *, has_begun: bool) -> bool:
        """Whether the length of the run is still to be fitted to a time.

        Args:
            has_begun: there are states to resume from, whose length stands.

        Raises:
            InputError: the run has begun with another length than a budget's.
        """
        if self.budget.seconds is None or "budget" in self.config.reasons:
            return False
        if has_begun:
            raise RunFolderError(Path(self.out), "was started without --budget; leave it out, or choose another folder")
        return True


def _itself(out: Path) -> list[Path]:
    return [out]


def parse_fit(
    program: str,
    argv: Sequence[str] | None = None,
    more: Mapping[str, str] | None = None,
    runs_in: Callable[[Path], Sequence[Path]] = _itself,
) -> FitArguments:
    """Parse `--preset NAME --data SHARDS --out RUN [--group.field value ...]`.

    Args:
        program: its name in messages.
        argv: the command line; this process's when None.
        more: options that the program has parsed itself, for the help text: usage to meaning.
        runs_in: the run folders of an `--out`, which have one recipe.

    Raises:
        SharedError: an extension that cannot be imported, an unknown preset, or values that the configuration refuses.
        SystemExit: 0 for `--help`, 2 for an unknown or malformed option.
    """
    extensions = load_extensions()  # before the options, to which they add
    try:
        parsed = _parse_fit(program, argv, more, runs_in)
        return replace(parsed, config=replace(_with_identity(parsed.config), extensions=extensions))
    except InputError as error:
        raise SharedError(str(error)) from error
    except SystemExit as error:
        if launcher_rank() == 0:
            raise
        raise SharedError("see the message of rank 0") from error


def _with_identity(config: Config) -> Config:
    """With what tells the teacher's file from others, so that a run does not go on with another one.

    Raises:
        InputError: no checkpoint there.
    """
    if not config.distill.teacher:
        return config
    try:
        identity = digest_content(read_header(config.distill.teacher))
    except InputError as error:
        raise InputError(f"--distill.teacher {error}") from error
    return replace(config, distill=replace(config.distill, identity=identity))


def _parse_fit(
    program: str,
    argv: Sequence[str] | None,
    more: Mapping[str, str] | None = None,
    runs_in: Callable[[Path], Sequence[Path]] = _itself,
    reader: ShardReader | None = None,
) -> FitArguments:
    parser = Parser(
        prog=program,
        add_help=False,
        usage=f"{program} --data SHARDS --out RUN [--preset NAME] [--budget TIME] [--resume auto|never] "
        "[--init-from FILE] [--GROUP.FIELD VALUE ...]",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default=AUTO,
        help=f"one of {', '.join(PRESETS)}; auto, if none is given, makes the recipe of the shards",
    )
    parser.add_argument("--data", metavar="SHARDS", help="folder or URL of the shards")
    parser.add_argument(
        "--out",
        metavar="RUN",
        type=local_folder,
        help="run folder; the same command on it resumes an interrupted run",
    )
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="`never` wants an empty run folder")
    parser.add_argument(
        "--init-from", metavar="FILE", help="start from a checkpoint's weights, also with other classes"
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="fit the schedule to a time, as 90s, 30m, 1h30m or 2d, at the pace that is measured before the first "
        "step; or to passes over the training images, as 8passes",
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and every field of the preset")
    words = tuple(sys.argv[1:] if argv is None else argv)
    known, rest = parser.parse_known_args(words)
    budget = Budget() if known.budget is None else parse_budget(known.budget)
    looks = known.data is not None and known.out is not None
    if looks:
        preset = fit_preset(known.preset, known.data, runs_in(Path(known.out)), budget, reader)
    else:
        preset = get_preset("severstal" if known.preset == AUTO else known.preset)
    check_names(preset)  # options have the tables' names alone: what a preset misspells would be lost
    if known.help:
        parser.epilog = (
            f"The environment variable {VARIABLE} names files of your own that add losses, transforms, heads "
        )
        parser.epilog += "and more, which are then listed below. "
        for usage, meaning in (more or {}).items():
            parser.epilog += f"{usage}: {meaning}. "
        parser.print_help()
        whose = f"Fields of the preset {known.preset}, with its values as defaults."
        if known.preset == AUTO and not looks:
            whose = (
                "Fields of every preset. The defaults are those of the preset severstal, as auto's own follow from the "
                "shards: give --data and --out, too, to see them."
            )
        tyro.cli(Config, default=preset, args=["--help"], prog=program, description=whose, registry=build_registry())
    for name in ("data", "out"):
        if getattr(known, name) is None:
            raise InputError(f"--{name} is missing; usage: {parser.usage}")
    empty = next((name for name, value in pairwise(rest) if value == "" and name.startswith("--")), None)
    if empty is not None:
        raise InputError(f"argument {empty}: an empty value")
    own = [*parser.options(known), *(usage.partition(" ")[0] for usage in more or {})]
    lengths = [word for word in rest if re.match(r"--phases\.\d+\.epochs\b", word)]
    if known.budget is not None and lengths:
        raise InputError(f"--budget and {lengths[0]} both say how long a phase is; leave one of them out")
    config = explain_changes(preset, parse_fields(program, preset, rest, own))
    check_names(config)
    if known.init_from is not None and config.model.weights not in ("hub", "none"):
        raise InputError("--init-from and --model.weights both say what to start from; leave one of them out")
    test_folds_given = any(part.partition("=")[0] == "--folds.test" for part in rest)
    return FitArguments(
        known.data, str(known.out), known.resume, known.init_from, config, test_folds_given, budget, words
    )


def share_recipe(arguments: FitArguments, runtime: Runtime) -> FitArguments:
    """`arguments` with rank 0's configuration: what `--preset auto` finds of machines may differ between ranks."""
    return replace(arguments, config=runtime.broadcast(arguments.config))
