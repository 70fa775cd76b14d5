"""Resumable states: whole or not there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from train.engine.loop_state import LoopState, Window
from train.engine.state import (
    RECORD,
    TENSORS,
    SavedState,
    StateWriteError,
    StateWriter,
    find_newest_state,
    read_state,
    snapshot,
    top_checkpoint_files,
    write_state,
)
from train.engine.top_checkpoints import TopCheckpoint


def state(step: int, value: float = 1.0) -> Any:
    return snapshot(
        LoopState(phase=0, step=step), (), {"model.w": torch.full((3,), value), "optimizer.0.step": torch.tensor(2.0)}
    )


def newest(folder: Path) -> tuple[SavedState, list[str]]:
    path, skipped = find_newest_state(folder)
    assert path is not None
    return read_state(path), skipped


def test_a_state_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path, state(5, 1.5), keep=2)
    found, skipped = newest(tmp_path)
    assert not skipped
    assert found.loop.step == 5
    assert found.tensors["model.w"].tolist() == [1.5, 1.5, 1.5]


def test_loop_state_and_best_weights_come_back_to_the_last_digit(tmp_path: Path) -> None:
    """Losses and scores are sums and means: 0.1 + 0.2 must not come back as 0.3."""
    loop = LoopState(
        phase=1,
        step=7,
        phase_best=0.1 + 0.2,
        stopped_early=["x"],
        window=Window(3, {"segmentation": 0.1 + 0.2, "boundary": 1 / 3}),
    )
    best = (TopCheckpoint(0.1 + 0.2, 1, 5, 1.5), TopCheckpoint(0.25, 0, 4, 1.0))
    path = write_state(tmp_path, snapshot(loop, best, {"w": torch.zeros(1)}), keep=1)
    found = read_state(path)
    assert found.loop == loop and found.top_checkpoints == best
    assert LoopState().phase_best is None
    assert read_state(write_state(tmp_path, state(8), keep=1)).loop == LoopState(step=8)


def test_a_state_names_the_weights_that_it_could_ship(tmp_path: Path) -> None:
    """Of whole states alone, whatever lies beside them."""
    for step, kept in ((4, 2), (6, 5)):
        saved = snapshot(LoopState(step=step), (TopCheckpoint(0.5, 0, kept, 1.0),), {"w": torch.zeros(1)})
        write_state(tmp_path, saved, keep=2)
    (tmp_path / "000000-00000009").mkdir()
    (tmp_path / "000000-00000009" / RECORD).write_text("{")
    assert top_checkpoint_files(tmp_path) == {"000000-00000002.safetensors", "000000-00000005.safetensors"}


def test_a_snapshot_is_a_copy_and_contiguous() -> None:
    weight, loop = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), LoopState()
    taken = snapshot(loop, (), {"w": weight})
    weight += 1
    loop.step += 1
    loop.window.steps += 1
    loop.stopped_early.append("x")
    assert taken.loop == LoopState()
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
    assert found.loop.step == 1
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
