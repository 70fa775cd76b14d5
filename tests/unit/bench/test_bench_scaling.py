"""`bench.scaling`: rings worked by hand, made-up indexes that readers accept, steps taken from a GPU's table alone."""

import json
from pathlib import Path

import pytest

from bench.scaling.__main__ import cores_section, index_rows, loader_rows, measured_steps, replace_section
from bench.scaling.index_size import make_folder, measure_opening
from bench.scaling.links import BETWEEN_NODES, NVLINK, Link, measure_gloo, reduce_seconds, ring_seconds
from steel.shards.reader import ShardReader
from tests.paths import ROOT


def test_a_ring_by_hand() -> None:
    link = Link("a byte a second", 1.0, 0.5)
    # Three ranks: two rounds of two steps, each of a third of 12 bytes, and half a second for each step.
    assert ring_seconds(12, 3, link) == pytest.approx(4 * (4 + 0.5))
    assert ring_seconds(12, 1, link) == 0


def test_nodes_exchange_eighths_through_eight_cards_or_all_of_it_through_one() -> None:
    infiniband, ethernet = BETWEEN_NODES
    inside = ring_seconds(80_000_000, 8, NVLINK)
    assert reduce_seconds(80_000_000, 8, infiniband) == inside
    assert reduce_seconds(80_000_000, 16, infiniband) == pytest.approx(inside + 10e6 / 50e9 + 2 * 5e-6)
    assert reduce_seconds(80_000_000, 16, ethernet) == pytest.approx(inside + 80e6 / 3.125e9 + 2 * 30e-6)


def test_two_processes_sum() -> None:
    times = measure_gloo(4000, repeats=2)
    assert len(times) == 2
    assert min(times) > 0


def test_a_made_up_index_is_a_whole_one(tmp_path: Path) -> None:
    index_bytes = make_folder(tmp_path / "shards", 2500)
    assert (tmp_path / "shards" / "index.arrow").stat().st_size == index_bytes
    reader = ShardReader(tmp_path / "shards", on_bad_sample="skip")  # raises where rows contradict the manifest
    assert (len(reader), len(reader.manifest.shards)) == (2500, 3)
    opening = measure_opening(str(tmp_path / "shards"))
    assert opening.opened > 0
    assert opening.batch > 0


def test_the_largest_index_is_in_proportion(tmp_path: Path) -> None:
    measured, larger = list(index_rows([1000], 1, tmp_path / "shards"))
    assert "not measured" in larger[0]
    assert "*" not in measured[0]


@pytest.mark.parametrize(("facts", "steps"), [({"not measured on a GPU": "all"}, {}), ({}, {"severstal": 320.0})])
def test_steps_come_from_a_gpu(facts: dict, steps: dict, tmp_path: Path) -> None:
    row = {"name": "made-up Unet resnet34, 256x1600, batch 64", "sides": [{"rates": [100.0, 200.0, 300.0]}]}
    other = {"name": "made-up Unet resnet34, 256x512, batch 64", "sides": [{"rates": [9.0]}]}
    (tmp_path / "step.json").write_text(json.dumps({"facts": facts, "rows": [other, row]}))
    assert measured_steps(tmp_path / "step.json") == steps


def test_cores_for_a_gpu_come_from_one_table_of_one_machine(tmp_path: Path) -> None:
    """Of two workers' images per second, the median of three repeats."""
    rows = [
        {"name": name, "sides": [{"rates": rates}, {"rates": [1.0]}]}
        for name, rates in (("batches", [800.0, 900.0, 1000.0]), ("decoded-batches", [3800.0, 3000.0, 3900.0]))
    ]
    (tmp_path / "speed.json").write_text(json.dumps({"rows": rows}))
    assert list(loader_rows(tmp_path / "speed.json")) == [
        ["decoding each image", "450", "1.0", "1.3", "4.2", "5.3"],
        ["from the decoded cache", "1900", "0.2", "0.3", "1.0", "1.3"],
    ]


def test_the_pages_cores_are_of_the_speed_table_beside_it() -> None:
    """Whoever makes `bench/speed.json` anew runs `python -m bench.scaling --derived`."""
    assert cores_section(ROOT / "bench" / "speed.json") in (ROOT / "bench" / "scaling.md").read_text()


def test_a_section_takes_the_place_of_its_namesake() -> None:
    page = "# Page\n\n## Cores\n\nold\n\n## Cores, more\n\nkept\n"
    assert replace_section(page, "## Cores\n\nnew\n") == page.replace("old", "new")
    assert replace_section(page, "## Cores, more\n\nnew\n") == page.replace("kept", "new")
    with pytest.raises(ValueError, match="not found"):
        replace_section(page, "## Other\n\nnew\n")
