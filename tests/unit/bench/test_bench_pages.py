"""What `bench.serve` and `bench.large_image` write: every figure with its repeats, and what it was made with."""

import argparse
import sys
from pathlib import Path

import pytest

from bench import large_image, serve
from bench.large_image import Taken
from bench.scaling.__main__ import _index_row
from bench.scaling.index_size import Opening
from bench.serve import Load, Served
from steel.errors import run_program


def test_the_page_of_the_service_has_medians_and_their_spread() -> None:
    loads = [Load(10, 20, 90), Load(12, 29, 80), Load(11, 21, 85)]
    options = argparse.Namespace(encoder="resnet18", size=(256, 1600))
    page = serve.page({"torch": Served([9.0, 7.5, 8.0], {4: loads})}, {"repeats": 3}, options)
    assert "- repeats: 3\n" in page and " JPEGs of 256x1600 " in page
    cells = "| torch | 4 | 11 (10 to 12) | 21 (20 to 29) | 85.0 (80.0 to 90.0) | 8.0 (7.5 to 9.0) |"
    assert page.splitlines()[-1] == cells
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1


def test_the_memory_of_a_large_image_is_held_to_its_target_in_all_repeats() -> None:
    options = argparse.Namespace(encoder="resnet18", size=(1000, 2000))
    taken = {"a": [Taken(2, 4), Taken(2.5, 5), Taken(2.1, 2)], "b": [Taken(2, 4), Taken(3, 5), Taken(2.1, 2)]}
    lines = large_image.page(taken, {}, options).splitlines()
    assert lines[-2] == "| a | 2.10 (2.00 to 2.50) | under 3 GB: reached | 4 (2 to 5) | 0.50 (0.40 to 1.00) |"
    assert "| under 3 GB: **missed** |" in lines[-1]


def test_of_an_index_every_figure_has_its_spread_but_for_one_that_was_not_measured() -> None:
    openings = [Opening(0.5, 0.25, 0.001, 10**7), Opening(0.75, 0.25, 0.002, 10**7), Opening(0.5, 0.25, 0.001, 10**7)]
    assert _index_row("3", 10**6, openings) == [
        *("3", "1", "0.50 (0.50 to 0.75)", "0.25 (0.25 to 0.25)", "1.0 (1.0 to 2.0)", "10 (10 to 10)"),
    ]
    assert _index_row("3", 10**6, openings[:1]) == ["3", "1", "0.50", "0.25", "1.0", "10"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "words", "rows"),
    [(serve.main, ["--seconds", "1"], 6), (large_image.main, [], 2)],
    ids=["serve", "large_image"],
)
def test_a_whole_run_in_small(
    main, words: list[str], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.md"
    small = ["--size", "64x160", "--encoder", "tu-test_resnet", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["program", *words, *small])
    assert run_program(main) == 0
    page = out.read_text()
    assert all(f"- {fact}: " in page for fact in ("made by", "machine", "priority", "wall time", "versions", "repeats"))
    assert sum(line.startswith(("| torch", "| onnxruntime")) for line in page.splitlines()) == rows
