"""A rank that fails, in every program of several ranks: its reason is the job's, at once, and nobody waits on."""

import json
import re
import time
from pathlib import Path

import pytest

from steel.config import NetworkConfig
from steel.distributed.runtime import seed_everything
from steel.model.network import UnifiedModel
from steel.shards.format import Manifest
from tests.distributed.launching import TINY, Job, torchrun
from tests.distributed.programs.failing import REASON


def fail(processes: int, module: str, arguments: list[str], folder: Path) -> Job:
    """Run `module` with a failing rank under torchrun, which ends with the code of that rank."""
    line = [*torchrun(processes), "tests/distributed/programs/failing.py", module, *arguments]
    job = Job(line, folder / "log", folder / "run")
    try:
        assert job.wait(timeout=300) == 1, job.output()
    finally:
        job.end()
    return job


def errors(job: Job) -> list[str]:
    """What was said, also behind rank 0's progress bar."""
    return re.findall(r"error: [^\r\n]*", job.output())


def assert_one_reason(job: Job) -> None:
    """The failing rank says it, one other repeats it, and torchrun knows it by the exit code for bad input."""
    own, repeated = sorted(errors(job), key=len)
    assert own == f"error: {REASON}"
    assert re.fullmatch(rf"error: rank 1 \(\S+ pid \d+\) failed: {REASON}; ending the job", repeated)
    assert "silent" not in job.output() and "a group was destroyed" not in job.output()
    assert re.search(r"exitcode +: 2 ", job.output())


@pytest.mark.parametrize("processes", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_fit(processes, tiny_shards, tmp_path):
    arguments = [*TINY, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    assert_one_reason(fail(processes, "train.fit", arguments, tmp_path))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["reason"] == f"rank 1: {REASON}"


@pytest.mark.slow
def test_crossval(tiny_shards, tmp_path):
    arguments = [*TINY, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]
    assert_one_reason(fail(2, "train.crossval", arguments, tmp_path))
    status = json.loads((tmp_path / "run" / "fold-0" / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", f"rank 1: {REASON}")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_evaluate(processes, tiny_shards, tmp_path):
    from steel.checkpoint import Checkpoint, save_checkpoint

    seed_everything(3)
    manifest = Manifest.load(str(tiny_shards))
    network = NetworkConfig("Unet", "resnet18", manifest.num_classes, manifest.channels, decoder_channels=(16, 8, 8))
    tensors = {name: tensor.unsqueeze(0) for name, tensor in UnifiedModel(network).state_dict().items()}
    checkpoint = Checkpoint(network, manifest.class_names, manifest.mean, manifest.std, tensors, folds={"train": [2]})
    save_checkpoint(tmp_path / "model.safetensors", checkpoint)
    arguments = ["--checkpoint", str(tmp_path / "model.safetensors"), "--data", str(tiny_shards), "--folds", "all"]
    job = fail(processes, "train.evaluate", [*arguments, "--out", str(tmp_path / "run"), "--workers", "0"], tmp_path)
    assert_one_reason(job)
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_doctor(tiny_shards, tmp_path):
    begun = time.monotonic()
    job = fail(
        2, "train.doctor.__main__", ["--data", str(tiny_shards), "--out", str(tmp_path), "--workers", "0"], tmp_path
    )
    assert_one_reason(job)
    assert time.monotonic() - begun < 110  # its own limit is 120 s
    assert re.search(rf"^x world +rank 1 on \S+: {REASON}$", job.output(), re.MULTILINE)
    assert re.search(rf"^x world +rank 0 on \S+: rank 1 \(.*\) failed: {REASON}$", job.output(), re.MULTILINE)
