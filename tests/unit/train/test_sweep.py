"""The sweep file: what its agent runs is a command that trains with the proposed values."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from tests.paths import ROOT
from train.arguments import parse_fit
from train.engine.metric_logger import tracked_figures
from train.presets import SEVERSTAL

SWEEP = yaml.safe_load((ROOT / "launch" / "wandb" / "sweep.yaml").read_text())
STUB = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"


def proposals() -> list[dict[str, float]]:
    """The smallest and the largest value of each parameter."""
    ranges = {
        name: (given["values"][0], given["values"][-1]) if "values" in given else (given["min"], given["max"])
        for name, given in SWEEP["parameters"].items()
    }
    return [{name: ends[which] for name, ends in ranges.items()} for which in (0, 1)]


@pytest.mark.parametrize("proposal", proposals(), ids=["least", "most"])
def test_an_agents_command_trains_with_what_was_proposed(
    proposal: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in proposal.items()}})
    command = [word for part in create_sweep_command(list(SWEEP["command"])) for word in
               (words["args"] if part == "${args}" else [part])]  # fmt: skip
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DATA": "my shards", "OUT": "runs", "WANDB_RUN_ID": "abc123"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    module, name, *options = json.loads(done.stdout)
    assert [module, name] == ["-m", "train"]

    arguments = parse_fit("train", options)
    assert (arguments.data, arguments.out) == ("my shards", "runs/abc123")
    crops = arguments.config.phases[0]
    transform = arguments.config.augment.get("brightness_contrast")
    found = {
        "phases.0.lr": crops.lr,
        "phases.0.loss.dice": crops.loss.weights.get("dice", 0.0),
        "phases.0.sampling.defect-crop": crops.sampling.defect_crop,
        "optim.ema-decay": arguments.config.optim.ema_decay,
        "augment.brightness-contrast.p": transform.p if transform else 0.0,
    }
    assert found == proposal
    assert arguments.config.phases[1].batch_size == SEVERSTAL.phases[1].batch_size


def test_the_sweeps_metric_is_one_that_runs_log() -> None:
    record = {
        "kind": "validation",
        "phase": 0,
        "step": 1,
        "global_step": 1,
        "epoch": 1.0,
        "mean_dice_cross_fitted": 0.5,
    }
    assert tracked_figures(record, 0.0)[SWEEP["metric"]["name"]] == 0.5
    assert SWEEP["metric"]["goal"] == "maximize"
