"""`bench.lovasz`: its gain worked by hand, and the page it writes."""

import sys
from pathlib import Path

import pytest

from bench import lovasz
from bench.lovasz import Times, page


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_gain_is_of_each_round() -> None:
    times = Times((8, 256, 512), "5 of 32, 6 sorted", every=(40.0, 90.0, 60.0), present=(10.0, 20.0, 30.0))
    assert times.gains == [4.0, 4.5, 2.0]
    text = page([times], {"machine": "two cores", "repeats": 3})
    spread = ["60.0 (40.0 to 90.0)", "20.0 (10.0 to 30.0)", "4.00x (2.00 to 4.50)"]
    assert cells(text)[2] == ["8x256x512", "5 of 32, 6 sorted", *spread]
    assert "\n- machine: two cores\n- repeats: 3\n" in text


def test_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lovasz, "SHAPES", ((2, 16, 32), (1, 32, 32)))
    monkeypatch.setattr(sys, "argv", ["lovasz", "--repeats", "2", "--out", str(tmp_path / "lovasz.md")])
    lovasz.main()
    text = (tmp_path / "lovasz.md").read_text()
    assert "\n- made by: `python -m bench.lovasz --repeats 2 --out lovasz.md` at " in text
    found = cells(text)
    assert [row[0] for row in found[2:]] == ["2x16x32", "1x32x32"]
