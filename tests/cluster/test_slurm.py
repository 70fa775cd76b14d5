"""The batch files of launch/slurm on a real SLURM cluster of two nodes, on this machine.

Needs root and Debian (it installs slurm-wlm and munge when they are missing):  pytest -m cluster tests/cluster
"""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cluster.slurm import ROOT, TWO_NODES, Cluster
from tests.doctor_report import complaints
from tests.watching import losses, ranks_of, status, steps_done

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        os.geteuid() != 0 or not (shutil.which("slurmctld") or shutil.which("apt-get")), reason="needs root and Debian"
    ),
]

NUM_IMAGES = 480
STEPS_AN_EPOCH = 80
RUN = (
    "--phases.0.epochs 1 --phases.0.batch-size 2 --phases.0.micro-batch 1 --phases.0.crop 64 160 "
    "--phases.1.epochs 0.05 --phases.1.batch-size 2 --phases.1.micro-batch 1 "
    "--runtime.workers 1 --tracking.tracker none --tracking.log-every 1"
).split()
"""One epoch of 80 steps, long enough to be disturbed in its middle, and a short second phase."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "tests" / "cluster" / "slurm_local.sh")
    try:
        conf = subprocess.run([script, "up", folder], check=True, capture_output=True, text=True).stdout.strip()
        environment = {**os.environ, "SLURM_CONF": conf, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
        yield Cluster(environment, folder)
    finally:
        subprocess.run([script, "down", folder], check=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of data_prep for small images in 3 folds."""
    from steel.synthetic.dataset import synthesize

    data = tmp_path_factory.mktemp("data")
    synthesize(str(data), NUM_IMAGES, 1, 0, height=64, width=160, class_share=(0.2, 0.2, 0.3, 0.2), workers=2)
    options = {"images": data / "train_images", "labels": data / "train.csv", "folds": 3, "shard-size": 50}
    return tuple(str(part) for name, value in options.items() for part in (f"--{name}", value))


@pytest.fixture(scope="module")
def shards(cluster: Cluster, images: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, sharded by an array of three tasks and a job that joins their parts."""
    out = tmp_path_factory.mktemp("shards") / "parts"
    file = "launch/slurm/data_prep.sbatch"
    parts = cluster.submit("--array=1-3", "--cpus-per-task=1", file, *images, "--out", out)
    dependency = f"--dependency=afterok:{parts}"
    join = cluster.submit(dependency, "--cpus-per-task=1", file, *images, "--out", out, "--join", 3)
    assert cluster.wait_for_end(join) == {"COMPLETED"}, cluster.log(parts) + cluster.log(join)
    return out


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training job that nothing happened to."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    job = train(cluster, shards, out)
    assert cluster.wait_for_end(job) == {"COMPLETED"}, cluster.log(job)
    return out


def train(cluster: Cluster, shards: Path, out: Path, *options: str) -> str:
    return cluster.submit(*TWO_NODES, *options, "launch/slurm/train.sbatch", "smoke", shards, out, *RUN)


def assert_same_result(run: Path, expected: Path) -> None:
    weights, others = load_file(run / "model.safetensors"), load_file(expected / "model.safetensors")
    assert weights.keys() == others.keys()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    assert losses(run) == losses(expected)


def test_parts_join_to_what_one_job_writes(shards, images, tmp_path):
    whole = tmp_path / "whole"
    subprocess.run([sys.executable, "-m", "data_prep", *images, "--out", str(whole)], cwd=ROOT, check=True)
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in shards.iterdir())
    assert filecmp.cmpfiles(whole, shards, names, shallow=False)[0] == names


def test_a_job_preempted_in_mid_epoch_resumes_by_itself(cluster, shards, undisturbed, tmp_path):
    out = tmp_path / "run"
    job = train(cluster, shards, out)
    cluster.wait_until(lambda: steps_done(out) >= 3, "a few steps", job)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 3")
    cluster.wait_until(lambda: status(out)["state"] == "interrupted", "the job to make room", job)
    assert 0 < steps_done(out) < STEPS_AN_EPOCH
    assert cluster.wait_for_end(urgent) == {"COMPLETED"}
    assert cluster.wait_for_end(job) == {"COMPLETED"}, cluster.log(job)
    assert cluster.field(job, "Restarts") == {"1"}
    assert_same_result(out, undisturbed)


def test_a_job_warned_of_its_time_limit_goes_back_to_the_queue(cluster, shards, undisturbed, tmp_path):
    out = tmp_path / "run"
    job = train(cluster, shards, out)
    cluster.wait_until(lambda: steps_done(out) >= 3, "a few steps", job)
    cluster.run("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@120 sends
    assert cluster.wait_for_end(job) == {"COMPLETED"}, cluster.log(job)
    assert "out of time" in cluster.log(job)
    assert_same_result(out, undisturbed)


def test_a_job_whose_rank_is_killed_restarts_from_the_last_state(cluster, shards, undisturbed, tmp_path):
    out = tmp_path / "run"
    job = cluster.submit(
        *TWO_NODES, "launch/slurm/train.sbatch", "smoke", shards, out, *RUN, "--runtime.save-every", "2"
    )
    cluster.wait_until(lambda: steps_done(out) >= 5, "a few steps", job)
    os.kill(max(ranks_of(out)), signal.SIGKILL)
    assert cluster.wait_for_end(job) == {"COMPLETED"}, cluster.log(job)
    assert cluster.field(job, "Restarts") == {"1"}
    assert_same_result(out, undisturbed)


def test_a_cancelled_job_saves_and_stays_cancelled(cluster, shards, tmp_path):
    out = tmp_path / "run"
    job = train(cluster, shards, out)
    cluster.wait_until(lambda: steps_done(out) >= 1, "a step", job)
    cluster.run("scancel", job)
    assert cluster.wait_for_end(job) == {"CANCELLED"}
    cluster.wait_until(lambda: not ranks_of(out), "the ranks to leave", job)
    assert status(out)["state"] == "interrupted"
    assert cluster.field(job, "Restarts") == {"0"}


def test_bad_input_fails_at_once(cluster, tmp_path):
    job = train(cluster, tmp_path / "nothing", tmp_path / "run")
    assert cluster.wait_for_end(job) == {"FAILED"}
    assert cluster.field(job, "Restarts") == {"0"}
    assert "no manifest.json" in cluster.log(job)


def test_cross_validation_as_an_array(cluster, shards, tmp_path):
    out, file = tmp_path / "crossval", "launch/slurm/crossval.sbatch"
    arguments = [file, "smoke", shards, out, *RUN, "--phases.0.epochs", "0.1"]
    members = cluster.submit(*TWO_NODES, "--array=0-2", *arguments)
    one_task = ("--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
    join = cluster.submit(f"--dependency=afterok:{members}", *one_task, *arguments)
    assert cluster.wait_for_end(join) == {"COMPLETED"}, cluster.log(members) + cluster.log(join)
    assert json.loads((out / "metrics.json").read_text())["images"] == NUM_IMAGES
    assert {tensor.shape[0] for tensor in load_file(out / "model.safetensors").values()} == {3}


def test_the_doctor_under_srun(cluster, shards, tmp_path):
    doctor = ["-m", "train.doctor", "--data", shards, "--out", tmp_path]
    said = cluster.run("srun", "--nodes=2", "--ntasks-per-node=1", "launch/slurm/rank.sh", sys.executable, *doctor)
    assert "srun, 2 ranks" in said
    assert not complaints(said), said
