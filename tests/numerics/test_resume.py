"""Interrupted runs end bit for bit as undisturbed ones: weights, average, optimizer state and logged losses."""

from pathlib import Path

import pytest

from tests.distributed.launching import run_script

SCRIPT = "tests/numerics/programs/every_stop.py"


def test_stops_within_an_epoch_at_its_end_and_twice(tiny_shards: Path, tmp_path: Path) -> None:
    told = run_script(2, SCRIPT, tiny_shards, tmp_path, "1-3").stdout
    assert told.count("the same") == 1


@pytest.mark.slow
def test_stops_after_every_step(tiny_shards: Path, tmp_path: Path) -> None:
    told = run_script(2, SCRIPT, tiny_shards, tmp_path).stdout
    assert told.count("the same") == 6 + 2


@pytest.mark.slow
def test_stops_in_either_phase_with_what_is_off_by_default(tiny_shards: Path, tmp_path: Path) -> None:
    """An equal average of the weights, a rate that decays over the stages, and hard examples; 4 steps a phase."""
    options = (
        "--phases.1.epochs 1.4 --phases.1.sampling.hard 0.5 --optim.ema-decay 0 --optim.swa --optim.layer-decay 0.5"
    ).split()
    told = run_script(2, SCRIPT, tiny_shards, tmp_path, "2", "4", "6", "3-2", *options).stdout
    assert told.count("the same") == 4


@pytest.mark.slow
def test_stops_in_either_phase_with_layers_that_are_of_training_alone(tiny_shards: Path, tmp_path: Path) -> None:
    told = run_script(2, SCRIPT, tiny_shards, tmp_path, "2", "3-2", "--model.deep-supervision", "2").stdout
    assert told.count("the same") == 2
