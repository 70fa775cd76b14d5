"""Resumable states: whole or not there."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.distributed.runtime import start
from steel.errors import InputError, SharedError, exit_code
from train.engine import state as states
from train.engine.loop_state import LoopState, Window
from train.engine.state import (
    RECORD,
    TENSORS,
    OtherVersionError,
    SavedState,
    find_newest_state,
    read_state,
    resume_state,
    top_checkpoint_files,
    write_state,
)
from train.engine.top_checkpoints import TopCheckpoint


def state(step: int, value: float = 1.0) -> Any:
    return SavedState(
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
        missed=[1.0, None, 1 / 3],
        missed_before=[0.1 + 0.2, None, 0.0],
        window=Window(3, {"segmentation": 0.1 + 0.2, "boundary": 1 / 3}),
    )
    best = (TopCheckpoint(0.1 + 0.2, 1, 5, 1.5), TopCheckpoint(0.25, 0, 4, 1.0))
    path = write_state(tmp_path, SavedState(loop, best, {"w": torch.zeros(1)}), keep=1)
    found = read_state(path)
    assert found.loop == loop and found.top_checkpoints == best
    assert LoopState().phase_best is None
    assert read_state(write_state(tmp_path, state(8), keep=1)).loop == LoopState(step=8)


def test_a_state_names_the_weights_that_it_could_ship(tmp_path: Path) -> None:
    """Of whole states alone, whatever lies beside them."""
    for step, kept in ((4, 2), (6, 5)):
        saved = SavedState(LoopState(step=step), (TopCheckpoint(0.5, 0, kept, 1.0),), {"w": torch.zeros(1)})
        write_state(tmp_path, saved, keep=2)
    (tmp_path / "000000-00000009").mkdir()
    (tmp_path / "000000-00000009" / RECORD).write_text("{")
    assert top_checkpoint_files(tmp_path) == {"000000-00000002.safetensors", "000000-00000005.safetensors"}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_state(tmp_path, state(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000-00000003", "000000-00000010"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no record", "empty record", "no tensors"])
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
    else:
        tensors.unlink()
    found, skipped = newest(tmp_path)
    assert found.loop.step == 1
    assert len(skipped) == 1 and last.name in skipped[0]


def age(path: Path, version: int) -> bytes:
    """Make a state one of another version; returns its record."""
    record = path / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": version}))
    return record.read_bytes()


@pytest.mark.parametrize("version", [states.FORMAT_VERSION - 1, states.FORMAT_VERSION + 1])
@pytest.mark.parametrize("newer_is_damaged", [False, True])
def test_a_state_of_another_version_is_refused_not_passed_over(
    tmp_path: Path, version: int, newer_is_damaged: bool
) -> None:
    """The run would begin anew, and remove it."""
    for step in (1, 2):
        age(write_state(tmp_path, state(step), keep=3), version)
    if newer_is_damaged:
        (write_state(tmp_path, state(3), keep=3) / TENSORS).unlink()
    with pytest.raises(
        OtherVersionError, match=rf"000000-00000002: made by another version .* version {version}, .* another --out$"
    ):
        find_newest_state(tmp_path)
    with start("no", cpu=True).running() as runtime, pytest.raises(SharedError, match="made by another version"):
        resume_state(runtime, tmp_path)


def test_a_save_leaves_states_of_another_version(tmp_path: Path) -> None:
    """Before it and after it; where one is in its place, nothing is saved. What is newer and can be used stands."""
    kept = {step: age(write_state(tmp_path, state(step), keep=3), 4) for step in (1, 20)}
    for step in (5, 6, 7):
        write_state(tmp_path, state(step), keep=2)
    assert sorted(int(path.name[-8:]) for path in tmp_path.iterdir()) == [1, 6, 7, 20]
    with pytest.raises(OtherVersionError, match="00000020"):
        write_state(tmp_path, state(20), keep=2)
    assert {step: (tmp_path / f"000000-{step:08d}" / RECORD).read_bytes() for step in kept} == kept
    shutil.rmtree(tmp_path / "000000-00000020")
    assert newest(tmp_path)[0].loop.step == 7


def test_a_leftover_of_another_version_goes_as_others_do(tmp_path: Path) -> None:
    """It was never a state."""
    leftover = write_state(tmp_path, state(1), keep=1).rename(tmp_path / ".staging-000000-00000001")
    age(leftover, 4)
    assert top_checkpoint_files(tmp_path) == set()
    write_state(tmp_path, state(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["000000-00000002"]


@pytest.mark.parametrize("name", [RECORD, TENSORS])
def test_states_that_cannot_be_read_are_not_taken_for_damaged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run would begin anew for a share that fails for a moment; while one can be read, it goes on with that."""
    last = [write_state(tmp_path, state(step), keep=2) for step in (1, 2)][1]
    broken = {last / name}
    real_open, real_read = Path.open, Path.read_bytes

    def fail(path: Path) -> None:
        if path in broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "open", lambda path, *how, **more: fail(path) or real_open(path, *how, **more))
    monkeypatch.setattr(Path, "read_bytes", lambda path: fail(path) or real_read(path))
    found, skipped = newest(tmp_path)
    assert found.loop.step == 1 and len(skipped) == 1 and last.name in skipped[0]
    broken.add(tmp_path / "000000-00000001" / name)
    with pytest.raises(InputError, match=rf"{last.name} .*{name}: .*; make it readable, or choose another") as caught:
        find_newest_state(tmp_path)
    assert exit_code(caught.value) == 1


def test_writing_a_state_that_is_there_already_leaves_it_alone(tmp_path: Path) -> None:
    path = write_state(tmp_path, state(1), keep=1)
    inode = os.stat(path / TENSORS).st_ino
    assert write_state(tmp_path, state(1), keep=1) == path
    assert os.stat(path / TENSORS).st_ino == inode
