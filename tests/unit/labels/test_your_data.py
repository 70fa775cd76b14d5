"""docs/your-data.md: its table is that of the formats, and its commands are understood."""

import re
import shlex

import pytest

from data_prep.__main__ import build_parser
from steel import cli
from steel.labels.formats import FORMATS
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "your-data.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_the_table_is_that_of_the_formats() -> None:
    rows = re.findall(r"^\| `([a-z][a-z-]*)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted((name, form.meaning) for name, form in FORMATS.items())


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_understood(line: str) -> None:
    if line.startswith("python -m data_prep "):
        build_parser().parse_args(shlex.split(line)[3:])
    else:
        assert line.startswith("steel ")
        cli.build_parser().parse_args(shlex.split(line)[1:])


def test_every_option_that_it_names_is_there() -> None:
    known = {option for action in build_parser()._actions for option in action.option_strings} | {"--to", "--format"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known
