"""Resumable states: whole or not there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from train.engine.loop_state import LoopState, TopCheckpoint
from train.engine.state import (
    RECORD,
    TENSORS,
    SavedState,
    StateWriteError,
    StateWriter,
    find_newest_state,
    read_state,
    snapshot,
    write_state,
)


def state(step: int, value: float = 1.0) -> Any:
    return snapshot(
        LoopState(phase=0, step=step), {"model.w": torch.full((3,), value), "optimizer.0.step": torch.tensor(2.0)}
    )


def newest(folder: Path) -> tuple[SavedState, list[str]]:
    path, skipped = find_newest_state(folder)
    assert path is not None
    return read_state(path), skipped


def test_a_state_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path, state(5, 1.5), keep=2)
    found, skipped = newest(tmp_path)
    assert not skipped
    assert LoopState.from_dict(found.progress).step == 5
    assert found.tensors["model.w"].tolist() == [1.5, 1.5, 1.5]


def test_progress_survives_json() -> None:
    progress = LoopState(
        phase=1, step=7, candidates=[TopCheckpoint(0.5, "000000-00000007.safetensors", 0, 1.0)], stopped_early=["x"]
    )
    progress.window.segmentation = 0.1 + 0.2
    assert LoopState.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress


def test_a_snapshot_is_a_copy_and_contiguous() -> None:
    weight = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    taken = snapshot(LoopState(), {"w": weight})
    weight += 1
    assert taken.tensors["w"].is_contiguous()
    assert taken.tensors["w"].sum() == 0


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_state(tmp_path, state(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000-00000003", "000000-00000010"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no record", "empty record", "no tensors", "future version"])
def test_a_damaged_state_is_passed_over_for_the_one_before_it(tmp_path: Path, damage: str) -> None:
    write_state(tmp_path, state(1, 1.0), keep=3)
    last = write_state(tmp_path, state(2, 2.0), keep=3)
    tensors, record = last / TENSORS, last / RECORD
    data = bytearray(tensors.read_bytes())
    if damage == "truncate":
        tensors.write_bytes(data[:-1])
    elif damage == "flip":
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "no record":
        record.unlink()
    elif damage == "empty record":
        record.write_text("")
    elif damage == "no tensors":
        tensors.unlink()
    else:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": 99}))
    found, skipped = newest(tmp_path)
    assert found.progress["step"] == 1
    assert len(skipped) == 1 and last.name in skipped[0]


def test_writing_a_state_that_is_there_already_leaves_it_alone(tmp_path: Path) -> None:
    path = write_state(tmp_path, state(1), keep=1)
    inode = os.stat(path / TENSORS).st_ino
    assert write_state(tmp_path, state(1), keep=1) == path
    assert os.stat(path / TENSORS).st_ino == inode


def test_the_writer_raises_the_error_of_an_earlier_write(tmp_path: Path) -> None:
    blocked = tmp_path / "states"
    blocked.write_text("a file where the folder should be")
    writer = StateWriter(blocked, keep=1)
    writer.submit(state(1))
    with pytest.raises(StateWriteError):
        writer.wait()
    writer.close()
