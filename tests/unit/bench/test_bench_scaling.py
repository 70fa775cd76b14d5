"""`bench.scaling`: rings worked by hand, made-up indexes that readers accept, steps taken from a GPU's tables alone."""

import json
from pathlib import Path

import pytest

from bench.scaling import __main__ as scaling
from bench.scaling.__main__ import (
    PRESETS,
    WORLDS,
    cores_section,
    efficiency_rows,
    index_rows,
    loader_rows,
    micro_batch_times,
    replace_section,
)
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


def step_table(path: Path, options: str, rates: dict[str, float], **facts: str) -> Path:
    """As `bench.train_step` writes it: images per second by the name of a row."""
    rows = [{"name": name, "sides": [{"rates": [rate / 2, rate, 2 * rate]}]} for name, rate in rates.items()]
    path.write_text(json.dumps({"facts": {"options": options, **facts}, "rows": rows}))
    return path


def test_of_a_step_counts_the_micro_batch_that_each_of_many_gpus_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "count_bytes", lambda _: (100_000_000, 0))
    rates = {"made-up Unet resnet34, 256x1600, batch 64": 200.0, "made-up Unet resnet34, 256x512, batch 64": 9.0}
    table = step_table(tmp_path / "step.json", "--device cuda --batch 64 --micro-batch 8", rates)
    assert micro_batch_times([table]) == {"severstal": (8, 40.0)}
    cells = [row[-1] for row in efficiency_rows(micro_batch_times([table]))]
    assert cells[0].startswith("8 images a GPU, 40.0 ms: 98.9% / ")  # 0.431 ms of sum; of 64 images it would be 99.9%
    assert cells[2:] == ["not measured on a GPU"] * (len(cells) - 2)


def test_steps_come_from_a_gpu(tmp_path: Path) -> None:
    rates = {"made-up Unet resnet34, 256x1600, batch 64": 200.0}
    table = step_table(tmp_path / "step.json", "none", rates, **{"not measured on a GPU": "all"})
    assert micro_batch_times([table]) == {}


def test_every_preset_has_its_step_whatever_weights_its_encoder_has(tmp_path: Path) -> None:
    """From tables of an architecture each; the smallest of a network's batches counts."""
    encoders = ("resnet34", "efficientnet-b3", "tu-convnext_tiny")
    unet = {f"made-up Unet {encoder}, 256x1600, batch 8": 100.0 for encoder in encoders}
    tables = [
        step_table(tmp_path / "large.json", "--micro-batch=8", {name.replace("8", "64"): 1.0 for name in unet}),
        step_table(tmp_path / "unet.json", "none", unet),
        step_table(tmp_path / "mit.json", "--batch 8", {"made-up Segformer mit_b2, 256x1600, batch 8": 100.0}),
        step_table(
            tmp_path / "dpt.json",
            "--micro-batch 4",
            {"made-up DPT tu-vit_small_patch16_dinov3.lvd1689m, 256x1600, batch 8": 100.0},
        ),
    ]
    expected = {preset.preset: (8, 80.0) for preset in PRESETS} | {"dinov3-vit-small": (4, 40.0)}
    assert micro_batch_times(tables) == micro_batch_times(tables[::-1]) == expected


def test_no_preset_has_more_than_a_micro_batch_for_each_of_eight_gpus() -> None:
    """So that one micro-batch is what the page's smallest number of GPUs computes as well."""
    assert {phase.batch_size // phase.micro_batch for preset in PRESETS for phase in preset.phases} == {min(WORLDS)}


def test_cores_for_a_gpu_come_from_one_table_of_one_machine(tmp_path: Path) -> None:
    """Of two workers' images per second, the median of three repeats."""
    sides = [{"rates": rates} for rates in ([3800.0, 3000.0, 3900.0], [800.0, 900.0, 1000.0])]
    rows = [{"name": "batches", "sides": sides[::-1]}, {"name": "decoded-batches", "sides": sides}]
    (tmp_path / "speed.json").write_text(json.dumps({"rows": rows}))
    assert list(loader_rows(tmp_path / "speed.json")) == [
        ["decoding each image", "450", "4.2", "5.3"],
        ["from the decoded cache", "1900", "1.0", "1.3"],
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
