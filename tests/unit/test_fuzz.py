"""Every file that the system reads, edited at random: it reads as before, or says in one line what is wrong with it.

An edit may also make another file that is right in itself (a fold 1 where there was 0, no hash to tell): then all that
a reader does with it must work. Where a hash covers the edited bytes, that is no outcome.
"""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main as shard
from steel.errors import InputError, printable
from steel.labels.classes import parse_class_names
from tests import fuzz_labels, fuzz_outputs, fuzz_runs, fuzz_shards, fuzz_tables
from tests.fuzz_runs import draw_history, make_history
from tests.fuzz_shards import CLAIM, MARK, edit_rows, half_a_job
from tests.fuzzing import Format, attack, edit_bytes, edit_csv, edit_json, edit_json_line, restored
from tests.image_folder import arguments, tree_digest

FORMATS = fuzz_shards.FORMATS | fuzz_runs.FORMATS | fuzz_tables.FORMATS | fuzz_labels.FORMATS | fuzz_outputs.FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_edited_files(name: str, tmp_path: Path) -> None:
    attack(FORMATS[name], tmp_path, range(40))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_edited_files_at_length(name: str, tmp_path: Path) -> None:
    attack(FORMATS[name], tmp_path, range(1000, 2500))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_edited_histories_are_drawn(tmp_path: Path) -> None:
    attack(Format(make_history, draw_history, (edit_json_line,), names="history.jsonl"), tmp_path, range(60))


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(100, 160), marks=pytest.mark.slow)])
def test_a_job_with_edited_marks_ends_with_the_same_bytes(
    seeds: range, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    half_a_job(CLAIM)(tmp_path)
    line = arguments(tmp_path / "input", tmp_path / "whole", shard_size=3, folds=2)
    assert shard(line) == 0
    line[line.index(str(tmp_path / "whole"))] = str(out)
    for seed in seeds:
        with restored(out):
            random = np.random.default_rng(seed)
            path = tmp_path / (CLAIM, MARK, "out/shard-000000.tar")[seed % 3]
            path.write_bytes(
                (edit_json, edit_rows, lambda data, random: data[:-512])[seed % 3](path.read_bytes(), random)
            )
            capsys.readouterr()
            code = shard(line)
            errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert (code, len(errors)) in ((0, 0), (2, 1)), seed
            assert code == 2 or tree_digest(out) == tree_digest(tmp_path / "whole"), seed


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(100, 5000), marks=pytest.mark.slow)])
def test_edited_class_names(seeds: range) -> None:
    for text in ("spot,trace,hole", "10=a,20=b,3=Riß"):
        for seed in seeds:
            random = np.random.default_rng(seed)
            edited = (edit_csv if seed % 2 else edit_bytes)(text.encode(), random).decode("utf-8", "replace")
            with contextlib.suppress(InputError):
                table = parse_class_names(edited.split(","))
                assert len(set(table.names)) == len(table.names) == len(edited.split(",")), seed
                assert all(name and printable(name) == name.strip() == name != "any" for name in table.names), seed
