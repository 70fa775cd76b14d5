"""docs/pretrained.md: its commands are understood, and its licences are those that are told."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import timm
from timm.models import get_pretrained_cfg

from steel.pretrained.downloads import SILENCE_S
from steel.pretrained.licences import SPECIAL
from tests.paths import ROOT
from train.arguments import parse_fit
from train.presets import AUTO

PAGE = (ROOT / "docs" / "pretrained.md").read_text()


def test_commands_are_understood(tiny_shards: Path) -> None:
    (command,) = re.findall(r"python -m train ((?:.*\\\n)*.*)", PAGE)
    given = shlex.split(command.replace("\\\n", " ").replace("--data shards", f"--data {tiny_shards}"))
    config = parse_fit("train", given).config
    assert config.preset == AUTO
    assert config.model.weights == "tf_efficientnet_lite0.safetensors"
    options = re.search(r"`(--model\.mean [^`]*)`", PAGE)
    assert options is not None
    base = ["--preset", "smoke", "--data", "d", "--out", "o"]
    assert parse_fit("train", [*base, *options[1].split()]).config.model.std == (0.5, 0.5, 0.5)


def test_special_licences_are_in_the_table() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    for text in SPECIAL.values():
        name = text.partition(" (")[0]
        assert any(name in row for row in rows), name


def test_licences_of_timm_are_counted_right() -> None:
    """Of the version that the page names."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `tu-NAME` |")]
    if f" timm {timm.__version__}," not in row:
        pytest.skip(f"timm {timm.__version__}")
    licences = Counter(get_pretrained_cfg(name).license for name in timm.list_pretrained())
    assert f"of the {licences.total():,} sets of timm {timm.__version__}, " in row
    for name, key in (("are Apache-2.0", "apache-2.0"), ("MIT", "mit"), ("BSD-3-Clause", "bsd-3-clause")):
        assert f"{licences[key]:,} {name}" in row
    assert f"{licences['cc-by-nc-4.0']:,} CC BY-NC" in row


def test_the_limit_on_silence_is_the_programs() -> None:
    assert f"for {SILENCE_S:g} seconds" in PAGE
