"""docs/your-data.md: its table is that of the formats, and its commands are understood."""

import re
import shlex

import pytest

from data_prep.__main__ import build_parser
from data_prep.pseudo_labels import __main__ as pseudo_labels
from steel import cli
from steel.labels.formats import FORMATS
from tests.paths import ROOT
from train import evaluate
from train.options import option_names
from train.presets import get_preset
from train.second_round import __main__ as second_round

PAGE = (ROOT / "docs" / "your-data.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]

PARSERS = {
    "data_prep": build_parser,
    "data_prep.pseudo_labels": pseudo_labels.build_parser,
    "train.evaluate": evaluate.build_parser,
    "train.second_round": second_round.build_parser,
}
TRAINING = {"--data", "--out", "--preset", "--budget", "--init-from", *option_names(get_preset("severstal"))}


def test_the_table_is_that_of_the_formats() -> None:
    rows = re.findall(r"^\| `([a-z][a-z-]*)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted((name, form.meaning) for name, form in FORMATS.items())


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_understood(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "steel":
        cli.build_parser().parse_args(words[1:])
    elif line.startswith("python -m train "):
        assert {word for word in words if word.startswith("--")} <= TRAINING
    else:
        PARSERS[words[2]]().parse_args(words[3:])


def test_every_option_that_it_names_is_there() -> None:
    parsers = [build() for build in PARSERS.values()]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    assert set(re.findall(r"--[a-z][a-z.-]*[a-z]", PAGE)) <= known | TRAINING | {"--to", "--format"}
