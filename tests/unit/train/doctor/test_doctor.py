import os
import time
from pathlib import Path

import pytest

from steel.errors import InputError
from tests.shard_folder import small_shards
from train.doctor import __main__ as doctor
from train.doctor import checks as checkup
from train.doctor.checks import (
    Finding,
    check_disk,
    check_gpus,
    check_launcher,
    check_machine,
    check_meeting_place,
    check_versions,
    run_checks,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def problems(findings) -> list[str]:
    return [finding.text for finding in findings if finding.level == "problem"]


def test_a_sound_machine_has_no_problems(tmp_path):
    checks = {
        "packages": check_versions,
        "machine": check_machine,
        "gpu": check_gpus,
        "disk": lambda: check_disk(tmp_path),
    }
    findings = run_checks(checks)
    assert not problems(findings)
    text = "\n".join(finding.text for finding in findings)
    assert "torch 2" in text
    assert "GiB free, writes" in text
    assert not list(tmp_path.iterdir())


def test_a_check_that_breaks_is_a_problem_and_stops_no_other():
    def breaks():
        yield Finding("gpu", "one")
        raise RuntimeError("CUDA error\nmore")

    findings = run_checks({"gpu": breaks, "python": lambda: iter([Finding("python", "3.11")])})
    assert problems(findings) == ["failed with RuntimeError: CUDA error"]
    assert findings[-1].text == "3.11"


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(checkup, "PACKAGES", ("numpy", "no-such-package"))
    assert problems(check_versions()) == ["not installed: no-such-package; run `make setup`"]


ELASTIC = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "python, 1 rank"),
        (ELASTIC, "torchrun, 2 ranks; they meet at localhost:29500"),
        (ELASTIC | {"ACCELERATE_MIXED_PRECISION": "no"}, "accelerate, 2 ranks; they meet at localhost:29500"),
        (SRUN | {"WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "2"}, "srun, 2 ranks; they meet at n1:2"),
    ],
)
def test_launchers_are_told_apart(environment, text):
    (finding,) = check_launcher(environment)
    assert finding == Finding("launcher", text)


def test_tasks_without_ranks_are_a_problem():
    (problem,) = problems(check_launcher(SRUN))
    assert "srun launch/slurm/rank.sh" in problem


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_ranks_that_are_no_numbers_are_refused_by_name(name, monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", name: "a"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match=f"{name}=a: no whole number"):
        doctor.main([])


def test_settings_of_the_network_are_shown():
    assert Finding("launcher", "NCCL_DEBUG=INFO") in list(check_launcher({"NCCL_DEBUG": "INFO"}))


@pytest.mark.parametrize(
    ("host", "local", "said"),
    [
        ("no-such-host.invalid", "2", "is no known host"),
        ("127.0.0.1", "1", "own loopback"),
        ("127.0.0.1", "2", None),
    ],
)
def test_why_ranks_may_not_meet(host, local, said):
    environment = {"MASTER_ADDR": host, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": local}
    found = problems(check_meeting_place(environment))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    (problem,) = problems(check_disk(tmp_path / "runs"))
    assert "cannot be written" in problem


def test_a_disk_that_refuses_to_write(tmp_path, monkeypatch):
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (problem,) = problems(check_disk(tmp_path))
    assert "cannot be written (No space left on device)" in problem


def test_the_report_says_each_thing_once_and_for_whom(capsys):
    same, slow = Finding("python", "3.11"), Finding("disk", "slow", "warning")
    assert doctor._report({0: [same], 1: [same, slow], 2: [same, slow]}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  python     3.11",
        "! disk       slow  (rank 1, 2)",
        "",
        "problems (x): 0, warnings (!): 1",
    ]


def test_ranks_with_different_versions_are_a_problem(capsys):
    assert doctor._report({0: [Finding("packages", "torch 2.15")], 1: [Finding("packages", "torch 2.14")]}) == 1
    assert "ranks have different versions" in capsys.readouterr().out


def test_a_missing_shard_folder_is_said_plainly(tmp_path, capsys):
    assert doctor.main(["--data", str(tmp_path / "nothing"), "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("x shards") and "nothing" in line for line in lines)


def test_to_compile_wants_a_preset(capsys):
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--compile"])
    assert ended.value.code == 2
    assert "--compile: it is a preset's step that is compiled; name one with --preset" in capsys.readouterr().err


def test_damaged_samples_are_found(tmp_path, capsys):
    root = small_shards(tmp_path / "shards")
    shard = sorted(root.glob("*.tar"))[0]
    content = bytearray(shard.read_bytes())
    content[600] ^= 255
    shard.write_bytes(content)
    assert doctor.main(["--data", str(root), "--out", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("x ")]
    assert "1 of 14 samples are damaged" in line
    assert Path(shard).name in line


def test_a_rank_that_is_left_alone_gives_up_with_a_report(capfd, monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setenv("RANK", "1")
    with doctor._limit(0.05, [Finding("python", "3.11"), Finding("disk", "slow", "warning")], "nobody came"):
        time.sleep(0.5)
    assert codes == [1]
    out = capfd.readouterr().out
    assert "nobody came" in out
    assert "slow" in out
    assert "3.11" not in out


@pytest.mark.parametrize(
    ("cuda", "driver", "level", "said"),
    [
        (None, False, "fine", "training runs on the CPU"),
        (None, True, "problem", "built without CUDA"),
        ("13.2", True, "warning", "the driver is too old"),
    ],
)
def test_why_there_is_no_gpu(cuda, driver, level, said, monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(checkup, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "nothing")
    last = list(check_gpus())[-1]
    assert last.level == level
    assert said in last.text
