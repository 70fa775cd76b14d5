"""A time that several ranks are to keep: the schedule that comes out is one that they can share."""

import json
from pathlib import Path

from tests.distributed.launching import run_script
from tests.watching import status

WORDS = (
    "--preset auto --budget 1h --model.encoder tu-test_resnet --model.weights none --validation.tta "
    "--validation.every-epochs 100 --runtime.workers 0 --runtime.precision no --tracking.tracker none"
).split()


def test_two_ranks_get_batches_of_two_micro_batches(tiny_shards: Path, tmp_path: Path) -> None:
    run_script(2, "tests/distributed/programs/small_set_fit.py", *WORDS, "--data", tiny_shards, "--out", tmp_path)
    assert status(tmp_path)["state"] == "finished"
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert [(phase["batch_size"], phase["micro_batch"]) for phase in config["phases"]] == [(16, 8), (16, 8)]
    assert config["reasons"]["budget"].startswith("8 passes")
