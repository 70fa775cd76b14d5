"""The login in a URL of shards: read with, and neither stored nor told."""

import sys
from pathlib import Path

import fsspec
import pytest
import torch

from steel.errors import InputError, run_program
from steel.reports.explore_data import data_of_shards
from steel.shards.reader import ShardReader
from tests.numerics.quick import quicken
from tests.shard_folder import put_in_memory
from train.__main__ import announce
from train.evaluate import main as evaluate
from train.fit import main as fit

SECRET = "5ecret"
OPTIONS = (
    "--preset smoke --phases.0.epochs 1 --phases.1.epochs 0.1 --tracking.tracker wandb --runtime.workers 0 "
    "--runtime.precision no --model.encoder tu-test_resnet --model.decoder-channels 8 8"
).split()


@pytest.fixture
def remote(tiny_shards: Path) -> str:
    """The shards in a store to which a login belongs."""
    return put_in_memory(tiny_shards, f"user:{SECRET}@")


@pytest.mark.usefixtures("fresh_accelerate", "no_wandb_account")
def test_a_run_keeps_no_login(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quicken(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    run, told = tmp_path / "run", f"memory://{remote.partition('@')[2]}"
    words = [*OPTIONS, "--data", remote, "--out", str(run)]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    announce(words)
    assert fit(words) == 0
    shipped = str(run / "model.safetensors")
    assert evaluate(["--checkpoint", shipped, "--data", remote, "--out", str(run / "test"), "--workers", "0"]) == 0

    printed = "".join(capsys.readouterr())
    assert told in printed and SECRET not in printed
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert [file for file, content in kept.items() if SECRET.encode() in content or SECRET in str(file)] == []
    assert any(told.encode() in content for file, content in kept.items() if file.suffix == ".wandb")
    assert told.encode() in (run / "test" / "report.html").read_bytes()


def test_what_is_wrong_with_shards_is_told_without_the_login(remote: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_of_shards(remote).where == f"memory://{remote.partition('@')[2]}"
    reader = ShardReader(remote)
    store = fsspec.filesystem("memory")
    store.rm(f"{remote}/{reader.manifest.shards[0].name}")
    with pytest.raises(InputError) as lost:
        reader.read(0)
    store.rm(f"{remote}/manifest.json")

    def read() -> None:
        ShardReader(remote)

    assert run_program(read) == 2
    for line in (str(lost.value), capsys.readouterr().err):
        assert f"memory://{remote.partition('@')[2]}" in line and SECRET not in line
