"""What CONTRIBUTING.md and docs/extending.md name is there: files, tables in them, and the names in the tables."""

import ast
import re

import pytest

from data_prep.__main__ import build_parser as data_prep_parser
from steel import cli
from steel.gates import GATES
from steel.inference.writers import WRITERS
from steel.labels.formats import FORMATS
from steel.loading.augment import TRANSFORMS
from steel.metrics.table import METRICS
from steel.model.heads import HEADS
from steel.model.losses import LOSS_TERMS
from steel.model.lr_schedule import SCHEDULES
from steel.tracking.trackers import TRACKERS
from tests.paths import ROOT
from train.arguments import parse_fit

TABLES = {
    "LOSS_TERMS": LOSS_TERMS,
    "HEADS": HEADS,
    "METRICS": METRICS,
    "TRANSFORMS": TRANSFORMS,
    "SCHEDULES": SCHEDULES,
    "GATES": GATES,
    "TRACKERS": TRACKERS,
    "FORMATS": FORMATS,
    "WRITERS": WRITERS,
}
ORDINARY = (
    *("a loss", "a transform", "a metric", "a label format", "a learning-rate schedule", "a tracker"),
    *("a second decoder head", "another mask codec", "a subcommand", "another reaction to a lost rank"),
)


def rows_of(document: str) -> dict[str, list[str]]:
    """The rows of the first table of a document, by their first cell."""
    lines = (ROOT / document).read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {first: rest for first, *rest in rows if first not in ("change", "what", "---")}


def top_level_names(path: str) -> set[str]:
    """What a module defines: functions, classes and tables."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


CHANGES = rows_of("CONTRIBUTING.md")


def test_the_run_of_seconds_is_understood() -> None:
    lines = re.findall(r"^\.venv/bin/(\w+) (.*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert [(program, words.split()[:2]) for program, words in lines[:3]] == [
        ("steel", ["synth", "/tmp/tiny"]),
        ("python", ["-m", "data_prep"]),
        ("python", ["-m", "train.fit"]),
    ]
    synth, shard, fit = (words.split() for _, words in lines[:3])
    data = cli.build_parser().parse_args(synth).out
    prepared = data_prep_parser().parse_args(shard[2:])
    assert (prepared.images, prepared.labels) == (f"{data}/train_images", f"{data}/train.csv")
    assert parse_fit("train.fit", fit[2:]).data == prepared.out


def test_the_ten_ordinary_changes_have_a_row() -> None:
    assert set(ORDINARY) <= set(CHANGES)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_costs_at_most_two_files_and_each_has_what_is_named(change: str) -> None:
    where, test = CHANGES[change]
    named: dict[str, list[str]] = {}
    for names, path in re.findall(r"((?:`\w+`(?: and )?)+) in `([\w/.]+)`", where):
        named.setdefault(path, []).extend(re.findall(r"\w+", names.replace(" and ", " ")))
    assert named, where
    assert len(named) <= (3 if change == "a second decoder head" else 2)
    for path, names in named.items():
        assert set(names) <= top_level_names(path), path
    assert (ROOT / test.strip("`")).is_file()


def test_the_page_on_extensions_lists_every_table_and_all_that_is_in_it() -> None:
    rows = rows_of("docs/extending.md")
    listed = {}
    for table, names, _ in rows.values():
        found = re.fullmatch(r"`(\w+)` in `([\w/.]+)`", table)
        assert found is not None and found[1] in top_level_names(found[2]), table
        listed[found[1]] = names.split(", ")
    assert listed == {table: list(entries) for table, entries in TABLES.items()}


def test_every_entry_says_what_it_is() -> None:
    for table, entries in TABLES.items():
        assert all(entry.meaning for entry in entries.values()), table


def test_the_readme_names_every_transform() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in TRANSFORMS if f"`{name.replace('_', '-')}`" not in text] == []
