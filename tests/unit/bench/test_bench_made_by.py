"""Tables say with which options, at which commit and when they were made."""

import re
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from bench import made_by as module
from bench import startup
from bench.made_by import Begun, facts_of_run, made_by


def test_the_command_is_shown_without_places_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "commit", lambda: "1a2b3c4")
    monkeypatch.setattr(sys, "argv", ["bench/speed/__main__.py", "--rows", "raw cold", "--out", "/a/b/speed.md"])
    shown = f"`python -m bench.speed --rows 'raw cold' --out speed.md` at 1a2b3c4, {date.today()}"
    assert made_by("bench.speed") == shown
    monkeypatch.setattr(sys, "argv", ["bench/speed/__main__.py"])
    assert made_by("bench.speed") == f"`python -m bench.speed` at 1a2b3c4, {date.today()}"


def test_a_copy_without_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert " at an unknown commit, " in made_by("bench.speed")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert " at an unknown commit, " in made_by("bench.speed")


def test_startups_page_has_it_and_says_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["startup", "--repeats", "2"])
    rows = startup.rows_of(tmp_path)
    facts = facts_of_run("bench.startup", Begun(time.perf_counter(), 0.5), ("torch",))
    page = startup.page(rows, {row.name: [1.0, 2.0] for row in rows}, facts)
    assert re.search(rf"- made by: `python -m bench.startup --repeats 2` at \w+( \w+)*, {date.today()}\n", page)
    assert re.search(r"- load average: 0.5 at the start, [\d.]+ at the end\n- priority: nice \d+\n", page)
    assert re.search(r"- wall time: 0 s\n- versions: Python 3[\d.]+, torch \d", page)
    words = " ".join(page.split())
    assert " Training is of the preset `smoke` on 20 synthetic strips of 64x400, " in words
