"""A second round as on a workstation: its programs in processes and ranks of their own, stopped by Ctrl-C."""

import json
import os
import signal
import sys
import time

import pytest

from steel.checkpoint import save_checkpoint
from steel.shards.format import Manifest
from tests.distributed.launching import TINY, Job, run
from tests.pseudo_labelled import DECISION, make_set, make_unlabelled
from tests.random_members import make_member
from tests.watching import status, steps_done


@pytest.mark.slow
def test_ctrl_c_saves_the_training_and_the_same_command_ends_the_round(tmp_path):
    """On two ranks; a terminal tells all that stand in the foreground, of which each rank hears once."""
    shards, out = make_set(tmp_path), tmp_path / "second"
    folds = {"train": [2], "tuning": [0], "test": [1]}
    told = {"data_digest": Manifest.load(str(shards)).digest}
    save_checkpoint(tmp_path / "first.safetensors", make_member(1, decision=DECISION, folds=folds, provenance=told))
    words = ["--checkpoint", tmp_path / "first.safetensors", "--data", shards, "--out", out, *TINY]
    words += ["--unlabelled", make_unlabelled(tmp_path / "line"), "--phases.0.epochs", "20"]
    words += ["--validation.every-epochs", "20", "--processes", "2", "--cpu"]

    job = Job([sys.executable, "-m", "train.second_round", *map(str, words)], tmp_path / "log", out / "run")
    try:
        while not ((out / "run" / "history.jsonl").exists() and steps_done(out / "run") > 1):
            assert job.launcher.poll() is None, job.output()
            time.sleep(0.05)
        os.killpg(job.launcher.pid, signal.SIGINT)
        assert job.wait() == 0, job.output()
    finally:
        job.launcher.terminate()
        job.wait()
    assert job.output().splitlines()[-1] == "the round is interrupted; the same command goes on from here"
    assert "stopped by SIGINT; state saved" in job.output() and status(out / "run")["state"] == "interrupted"

    done = run(1, "train.second_round", *words, check=False)
    assert done.returncode == 3, done.stderr  # an image is cut short
    assert "resuming at phase crops" in done.stderr and status(out / "run")["attempt"] == 2
    for name in ("first", "second"):
        assert json.loads((out / "test" / name / "metrics.json").read_text())["speed"]["processes"] == 2
    assert (out / "report.txt").read_text() in done.stderr
