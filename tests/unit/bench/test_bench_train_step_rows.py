"""The rows of the step's table, the aims that they are held to, and what was not measured."""

from dataclasses import replace

import pytest

from bench.train_step.__main__ import _gaps, _power
from bench.train_step.rows import DEFAULT, KINDS, aims_not_measured, not_measured, rows_of
from bench.train_step.setting import Setting

RESNET34 = Setting(encoder="resnet34", height=256, width=512)


def test_every_kind_of_row_has_ours_first_and_its_targets() -> None:
    rows = rows_of(KINDS, [DEFAULT], "shards")
    assert [row.name.removeprefix("kept ").split()[0] for row in rows] == ["made-up", *KINDS]
    assert all(row.sides[0].target is None for row in rows)
    made_up, _, loader, ddp, ranks = rows
    targets = {side.label: side.target for side in made_up.sides}
    assert targets["plain loop, channels_last"] == 1.0 and targets["plain loop, NCHW"] == 1.15
    accumulated, _ = rows_of(["made-up"], [replace(DEFAULT, micro=2)], "")
    assert [side.label for side in accumulated.sides] == [side.label for side in made_up.sides]
    assert made_up.sides[-1].where == "monai-nchw" and made_up.sides[-1].target == 1.0
    assert loader.sides[0].options["shards"] == "shards" and ddp.sides[0].options["ddp"]
    assert ranks.sides[1].target == 0.9 and ranks.sides[1].options["micro"] == DEFAULT.batch // 2


def test_what_was_not_run_is_named() -> None:
    """Also the kinds of rows of a network that has others."""
    whole = list(not_measured(KINDS, []))
    assert len(whole) == 2 * 5 * 2 and "FPN tu-convnext_tiny 256x1600" in whole
    on_cpu = [RESNET34, DEFAULT]
    assert len(list(not_measured(KINDS, on_cpu))) == 19
    assert "Unet resnet34 256x512 (loader, ddp, ranks)" in list(not_measured(["made-up"], on_cpu))
    on_gpu = [replace(RESNET34, device="cuda")]  # where there are no gloo ranks to be measured
    assert "Unet resnet34 256x512 (loader)" in list(not_measured(["made-up", "ddp"], on_gpu))


@pytest.mark.parametrize(
    ("card", "aim"),
    [
        ("NVIDIA H200", 2400),
        ("NVIDIA H100 80GB HBM3", 1900),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-80GB", None),
    ],
)
def test_a_gpu_is_held_to_the_aims_for_it(card: str, aim: float | None) -> None:
    on_gpu = [replace(RESNET34, device="cuda", precision="bf16"), replace(DEFAULT, device="cuda")]
    made_up, float32, loader, *others = rows_of(["made-up", "loader"], on_gpu, "shards", card)
    assert [side.least_rate for side in made_up.sides[:3]] == [aim, aim, None]
    assert all(side.least_rate is None for row in (float32, loader, *others) for side in row.sides)
    assert [side.target for side in loader.sides[:2]] == [None, 0.97]
    left = list(aims_not_measured(["made-up", "loader"], on_gpu, card))
    assert len(left) == (4 if aim is None else 3) and not any("loader" in each for each in left)


def test_without_a_gpu_the_aims_are_among_what_was_not_measured() -> None:
    """Of what a run on a GPU tells, that which it does tell."""
    (loader,) = rows_of(["loader"], [RESNET34], "shards")
    assert loader.sides[1].target is None
    facts = _gaps(KINDS, [RESNET34], "")
    assert facts["aims not measured"].split("; ") == [
        "Unet resnet34 256x512, made-up batch: at least 2,400 images/s on an H200",
        "Unet resnet34 256x512, made-up batch: at least 1,900 images/s on an H100",
        "Unet resnet34 256x1600, made-up batch: at least 600 images/s on an H200",
        "Unet resnet34 256x1600, made-up batch: at least 450 images/s on an H100",
        "fed by the loader: at least 0.97x the made-up batch on a GPU",
    ]
    assert facts["device time"] == "not measured"
    assert "device time" not in _gaps(KINDS, [RESNET34], "NVIDIA H200")


def test_on_a_gpu_alone_the_table_tells_power_and_clocks() -> None:
    told = _power("NVIDIA H200", "0, NVIDIA H200, 570, 700, 520, 1755, 3201, 55, 97, 9000\n")["power and clocks"]
    assert told.startswith("NVIDIA H200, driver 570, limit 700 W, power, W 520 (520), SM clock, MHz 1755 (1755)")
    assert _power("", "") == {}
