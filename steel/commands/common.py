"""What subcommands share: help, options, progress, and places to write to."""

import argparse
import copy
import difflib
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from steel.errors import InputError, told_url
from steel.option_values import positive


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults as they would be typed, except that there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        none = action.default is None or action.default is False  # 0 is a default
        return action.help if none else super()._get_help_string(action)

    def _expand_help(self, action: argparse.Action) -> str:
        if isinstance(action.default, list | tuple):
            action = copy.copy(action)
            action.default = _typed(action.default if action.nargs else [action.default])
        return super()._expand_help(action)


def _typed(values: Iterable[Any]) -> str:
    """Of an option, as on a command line: with blanks between them, and a size as HxW."""
    return " ".join("x".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values)


class Parser(argparse.ArgumentParser):
    """Shows defaults; a mistake in the options is one line, as every other one. A shortened option is one: what it is
    short for would change with the options that join, and another program's option of that name would be taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, "allow_abbrev": False, **kwargs})
        self._given: Sequence[str] = ()

    def parse_known_args(self, args=None, namespace=None):
        """As the base class; an empty value is refused: it is what a shell makes of a variable that is not set."""
        self._given = sys.argv[1:] if args is None else list(args)
        parsed, unknown = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if value == "" or (isinstance(value, list) and "" in value):
                self.error(str(argparse.ArgumentError(action, "an empty value")))
        return parsed, unknown

    def parse_args(self, args=None, namespace=None):
        """As the base class; of an option that there is not, those that come nearest are named."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(say_unknown(unknown[0], list(self.options(parsed))))
        return parsed

    def options(self, parsed: argparse.Namespace) -> Iterator[str]:
        """The names of the options, those of the subcommand that was chosen among them."""
        for action in self._actions:
            yield from action.option_strings
            chosen = getattr(parsed, action.dest, None)
            if isinstance(action, argparse._SubParsersAction) and chosen in action.choices:
                yield from action.choices[chosen].options(parsed)

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2. Where an option is missing, one that there is not is told instead: it is
        most likely that one."""
        names = self._option_string_actions
        mistyped = [word for word in self._given if word[:2] == "--" != word and word.partition("=")[0] not in names]
        if "arguments are required: " in message and mistyped:
            message = say_unknown(mistyped[0], list(names))
        self.exit(2, f"error: {message}; --help lists the options\n")


def say_unknown(word: str, names: Sequence[str]) -> str:
    """That there is no such option, and which come nearest: by their letters, else by their group.

    Args:
        word: of the command line.
        names: of all options.
    """
    if not word.startswith("-"):
        return f"{word}: belongs to no option"
    wanted = word.partition("=")[0].replace("_", "-")
    group = wanted.rpartition(".")[0] + "."
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.8) or [n for n in names if n.startswith(group)]
    near = near or difflib.get_close_matches(wanted, names, n=3)
    return f"{word}: no such option" + (f"; the nearest: {', '.join(near)}" if near else "")


class LateParser(Parser):
    """Can get its arguments when they are parsed, so that what they need is imported for its command alone."""

    add_late: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args=None, namespace=None):
        """As the base class."""
        if self.add_late is not None:
            add, self.add_late = self.add_late, None
            add(self)
        return super().parse_known_args(args, namespace)


@contextmanager
def image_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal, as a function to call with (images done, images in all)."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="image", disable=None) as bar:

        def on_image(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_image


@contextmanager
def tile_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal, of the tiles of each large image: what `Predictor.on_tile` calls."""
    from tqdm import tqdm

    with tqdm(desc="large image", unit="tile", disable=None, leave=False) as bar:

        def on_tile(done: int, total: int) -> None:
            if done == 1:
                bar.reset(total)
            bar.update(done - bar.n)

        yield on_tile


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Options of every command that runs a model."""
    parser.add_argument(
        "--precision", choices=("auto", "no", "bf16", "fp16"), default="auto", help="auto: bf16 where that is fast"
    )
    parser.add_argument(
        "--pixels-per-pass",
        type=positive,
        metavar="N",
        help="pixels in a forward pass, in images of one padded size, at least one; by default what suits the device",
    )


def require_torch() -> None:
    """Refuse, in one line, a command that needs torch where there is none."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("this command needs torch: pip install 'steel-defects[train]'")


def local_folder(text: str) -> Path:
    """The value of an option that takes a folder of this machine, not of a store."""
    return _local(text, "folder")


def local_file(text: str) -> Path:
    """Likewise, a file."""
    return _local(text, "file")


def _local(text: str, kind: str) -> Path:
    from steel import storage

    if not text:  # as a path it would be the folder that one is in
        raise argparse.ArgumentTypeError("an empty value")
    if storage.is_remote(text):
        raise argparse.ArgumentTypeError(f"{told_url(text)} is no {kind} of this machine")
    return storage.local_path(text)


def make_way(inputs: Sequence[str | None], outputs: Sequence[str | None]) -> None:
    """See, before any work is done, that every output can be written and replaces no input; None is no file."""
    from steel import storage

    storage.check_apart(inputs, outputs)
    for path in outputs:
        if path is None or storage.is_remote(path):
            continue
        if storage.local_path(path).is_dir():
            raise InputError(f"{path}: a folder; give the name of the file to write")
        folder = storage.local_path(path).parent
        storage.make_folder(folder)
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except FileNotFoundError as error:
            raise InputError(f"{path}: no files can be made there; choose another place") from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error
