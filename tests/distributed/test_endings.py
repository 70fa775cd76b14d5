"""How the ranks of a job leave it: by what one of them says, by what its peers hear of it, and together at the end."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steel.distributed.heartbeat import INTERVAL_S
from tests.distributed.launching import environment
from tests.paths import ROOT

LATE_S = 2.0
"""How much later than they should threads may run on a busy machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the three ranks of each case said and did; see endings.py."""
    folder = tmp_path_factory.mktemp("endings")
    line = [sys.executable, "tests/distributed/programs/endings.py", str(folder)]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def said(folder: Path) -> Callable[[str], list[list[str]]]:
    """The lines of each rank of a case."""
    return lambda case: [(folder / f"{case}-{rank}.err").read_text().splitlines() for rank in range(3)]


def codes(folder: Path, case: str) -> list[int]:
    return json.loads((folder / "codes.json").read_text())[case]


def events(folder: Path, case: str, rank: int) -> dict[str, dict[str, Any]]:
    lines = (folder / f"{case}-{rank}.jsonl").read_text().splitlines()
    return {event["what"]: event for event in map(json.loads, lines)}


def test_a_rank_that_fails_says_records_and_tells_it_before_anything_waits(folder, said):
    failing = events(folder, "fails", 1)
    assert said("fails")[1] == ["error: the cache of this node is full"]
    assert failing["recorded"]["reason"] == "rank 1: the cache of this node is full"
    assert failing["recorded"]["said"] == "error: the cache of this node is full\n"
    order = sorted(failing, key=lambda what: failing[what]["time"])
    assert order == ["raised", "recorded", "told", "cleaned up"]
    assert failing["told"]["time"] - failing["raised"]["time"] < LATE_S


def test_its_peers_give_up_within_two_beats_with_its_reason_and_its_exit_code(folder, said):
    told = events(folder, "fails", 1)["told"]["time"]
    for rank in (0, 2):
        heard = events(folder, "fails", rank)["recorded"]
        assert re.fullmatch(r"rank 1 \(\S+ pid \d+\) failed: the cache of this node is full", heard["reason"])
        assert heard["time"] - told < 2 * INTERVAL_S + LATE_S
    assert codes(folder, "fails") == [2, 2, 2]
    (line,), others = said("fails")[0], said("fails")[2]
    assert line == f"error: {events(folder, 'fails', 0)['recorded']['reason']}; ending the job"
    assert others == []  # one rank of a machine repeats it


@pytest.mark.parametrize("case", ["fails", "breaks", "shares", "dies", "hangs", "is_interrupted"])
def test_no_process_group_is_destroyed_after_an_error(folder, case):
    for rank in range(3):
        path = folder / f"{case}-{rank}.jsonl"
        assert not path.exists() or "destroyed" not in path.read_text()


def test_a_defect_shows_its_traceback_once(folder, said):
    lines = said("breaks")
    assert lines[2][0].startswith("Traceback") and lines[2][-1] == "KeyError: 'no such thing'"
    assert re.fullmatch(r"error: rank 2 \(.*\) failed: KeyError: 'no such thing'; ending the job", lines[0][0])
    assert len(lines[0]) == 1 and lines[1] == []
    assert codes(folder, "breaks") == [1, 1, 1]


def test_what_all_ranks_find_rank_0_alone_says(folder, said):
    assert said("shares") == [["error: --out is no folder"], [], []]
    assert codes(folder, "shares") == [2, 2, 2]
    assert [events(folder, "shares", rank)["recorded"]["reason"] for rank in range(3)] == ["--out is no folder"] * 3


def test_a_rank_that_is_killed_is_named(folder, said):
    assert codes(folder, "dies") == [1, -9, 1]
    for rank in (0, 2):
        reason = events(folder, "dies", rank)["recorded"]["reason"]
        assert re.fullmatch(r"lost contact with the other ranks: rank 1 \(\S+ pid \d+\) is gone", reason)
        # Its broken connection and its missing beat may be noticed in either order.
        assert said("dies")[rank] in ([f"error: {reason}"], [f"error: {reason}; ending the job"], [])
    assert len(said("dies")[0]) == 1


def test_a_rank_that_hangs_is_named(folder, said):
    assert codes(folder, "hangs")[:2] == [1, 1]
    (line,) = said("hangs")[0]
    assert re.fullmatch(r"error: rank 2 \(\S+ pid \d+\) has been silent for 4 s: .*; ending the job", line)


def test_an_interruption_is_everybodys(folder, said):
    assert codes(folder, "is_interrupted") == [130, 130, 130]
    lines = said("is_interrupted")
    assert re.fullmatch(r"error: rank 1 \(\S+ pid \d+\) failed: interrupted; ending the job", lines[0][0])
    assert [len(each) for each in lines] == [1, 0, 0]


def test_who_is_done_waits_for_rank_0_and_nobody_is_blamed(folder, said):
    assert codes(folder, "leaves") == [0, 0, 0]
    assert said("leaves") == [[], [], []]
    done = events(folder, "leaves", 0)["done"]["time"]
    for rank in range(3):
        left = events(folder, "leaves", rank)
        assert left["told"]["reason"] == "" and left["destroyed"]["time"] > done


def test_numbers_and_objects_go_over_gloo_and_tensors_over_the_default_group(folder):
    """The default group moves nothing here, as it is of no real kind: what arrives has come another way."""
    for rank in range(3):
        found = events(folder, "talks", rank)
        assert (found["groups"]["default"], found["groups"]["hosts"]) == ("fake", "gloo")
        assert found["broadcast"]["value"] == {"rank": 0}
        assert found["all_gather"]["value"] == [0, 11, 22]
        assert found["gather_on_main"]["value"] == ([] if rank else [0, 11])
        assert found["sum_numbers"]["value"] == [3.0, 3.0, float("inf")]
        assert found["on_main"]["value"] == 0
        assert found["tensors"]["reduced"] == [5.0, 5.0] and not found["tensors"]["moved"]
        assert found["together"]["time"] > events(folder, "talks", 0)["late"]["time"]
    assert codes(folder, "talks") == [0, 0, 0]
