"""What is written beside training: copies, in order, and told when it fails."""

import json
import logging
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.errors import InputError
from train.engine import state_writer
from train.engine.loop_state import LoopState, Window
from train.engine.state import (
    FORMAT_VERSION,
    RECORD,
    SavedState,
    StateWriteError,
    find_newest_state,
    read_state,
    write_state,
)
from train.engine.state_writer import StateWriter
from train.engine.top_checkpoints import TopCheckpoint, TopCheckpoints


def test_what_is_submitted_is_a_copy(tmp_path: Path) -> None:
    """Twice, through the same memory."""
    weight, loop = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), LoopState()
    writer = StateWriter(tmp_path / "states", keep=1)
    for step in range(2):
        writer.submit(loop, (), {"w": weight, "channels": weight[:, :step]})
        weight += 1
        loop.step += 1
        loop.window.steps += 1
        loop.stopped_early.append("x")
        writer.wait()
        path, _ = find_newest_state(tmp_path / "states")
        assert path is not None
        saved = read_state(path)
        assert saved.loop == LoopState(step=step, window=Window(step), stopped_early=["x"] * step)
        assert saved.tensors["w"].equal(torch.full((2, 3, 4, 4), float(step)))
        assert saved.tensors["channels"].shape == (2, step, 4, 4)
    writer.close()


def test_weights_that_a_state_of_another_version_could_ship_stay(tmp_path: Path) -> None:
    """As the state does; once it is gone, they go."""
    states, folder = tmp_path / "states", tmp_path / "top_checkpoints"
    writer, store = StateWriter(states, keep=1), TopCheckpoints(folder, keep=1)

    def validate(step: int) -> list[str]:
        offered = TopCheckpoint(step / 10, 0, step, 1.0)
        assert store.offer(offered)
        writer.submit_best(store, offered, {"w": torch.zeros(1)})
        writer.wait()
        return sorted(path.name for path in folder.iterdir())

    validate(1)
    record = write_state(states, SavedState(LoopState(step=1), store.ranked, {"w": torch.zeros(1)}), keep=1) / RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": FORMAT_VERSION - 1}))
    assert validate(2) == ["000000-00000001.safetensors", "000000-00000002.safetensors"]
    shutil.rmtree(record.parent)
    assert validate(3) == ["000000-00000003.safetensors"]
    writer.close()


def test_the_writer_raises_the_error_of_an_earlier_write(tmp_path: Path) -> None:
    blocked = tmp_path / "states"
    blocked.write_text("a file where the folder should be")
    writer = StateWriter(blocked, keep=1)
    writer.submit(LoopState(step=1), (), {})
    with pytest.raises(StateWriteError):
        writer.wait()
    writer.close()


def test_a_state_is_due_by_the_clock_once_the_one_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training does not wait for the write, and the log says for how long it did."""
    now, let_go = [100.0], threading.Event()
    real = state_writer.write_state

    def slow(*arguments: Any) -> Path:
        let_go.wait(10)
        return real(*arguments)

    monkeypatch.setattr(state_writer, "write_state", slow)
    monkeypatch.setattr(state_writer.time, "monotonic", lambda: now[0])
    writer = StateWriter(tmp_path, keep=1, interval=60)
    assert not writer.is_due
    now[0] = 160.0
    assert writer.is_due
    with caplog.at_level(logging.INFO):
        writer.submit(LoopState(step=3), (), {"w": torch.zeros(1)})  # comes back while the write hangs
        assert not writer.is_idle and not writer.is_due
        now[0] = 230.0
        assert not writer.is_idle and not writer.is_due
        let_go.set()
        writer.wait()
    assert writer.is_idle and writer.is_due
    assert caplog.messages[0].startswith("state of phase 0, step 3 saved in 70.00 s; training waited 0.00")
    assert caplog.messages[0].endswith(" s for it")
    writer.close()


def test_a_state_that_waits_for_the_one_before_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = state_writer.write_state

    def slow(*arguments: Any) -> Path:
        time.sleep(0.2)
        return real(*arguments)

    monkeypatch.setattr(state_writer, "write_state", slow)
    writer = StateWriter(tmp_path, keep=1)
    with caplog.at_level(logging.INFO):
        for step in (1, 2):
            writer.submit(LoopState(step=step), (), {"w": torch.zeros(1)})
        writer.wait()
    first, second = caplog.messages
    assert first.endswith(" s for it")
    waited, of_them = map(
        float, re.findall(r"waited ([\d.]+) s for it, ([\d.]+) s of them until the one before", second)[0]
    )
    assert 0.15 < float(of_them) <= float(waited)
    writer.close()


def test_the_best_weights_are_written_beside_training_and_before_the_state_that_ranks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for the other: here the weights come while a state hangs, and another state while they do."""
    let_go, order = threading.Event(), []
    real_write, real_state = TopCheckpoints.write, state_writer.write_state

    def slow(store: TopCheckpoints, kept: TopCheckpoint, weights: Any) -> None:
        let_go.wait(10)
        real_write(store, kept, weights)
        order.append(kept.file)

    def noted(folder: Path, saved: SavedState, keep: int) -> Path:
        let_go.wait(10)
        order.append(f"state {saved.loop.step}")
        return real_state(folder, saved, keep)

    monkeypatch.setattr(TopCheckpoints, "write", slow)
    monkeypatch.setattr(state_writer, "write_state", noted)
    store, writer = TopCheckpoints(tmp_path / "best", keep=1), StateWriter(tmp_path / "states", keep=1)
    weight = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    best, worse = TopCheckpoint(0.5, 0, 1, 1.0), TopCheckpoint(0.4, 0, 2, 2.0)
    writer.submit(LoopState(step=1), (), {"w": weight})
    assert store.offer(best)
    writer.submit_best(store, best, {"w": weight})
    weight += 1  # training goes on
    assert not (tmp_path / "best").exists()
    threading.Timer(0.1, let_go.set).start()
    writer.submit(LoopState(step=2), store.ranked, {"w": weight})  # waits for the first state alone
    writer.wait()
    (tmp_path / "best" / "left over").touch()
    assert not store.offer(worse)
    writer.submit_best(store, worse, None)
    writer.wait()
    assert order == ["state 1", best.file, "state 2"]
    assert [path.name for path in (tmp_path / "best").iterdir()] == [best.file]
    assert store.read(best)["w"].equal(torch.ones(2, 3, 4, 4))
    writer.close()


def test_weights_that_cannot_be_written_are_told_at_the_next_step(tmp_path: Path) -> None:
    blocked = tmp_path / "best"
    blocked.write_text("a file where the folder should be")
    store, writer = TopCheckpoints(blocked, keep=1), StateWriter(tmp_path / "states", keep=1)
    writer.submit_best(store, TopCheckpoint(0.5, 0, 1, 1.0), {"w": torch.zeros(1)})
    writer.submit(LoopState(step=1), (TopCheckpoint(0.5, 0, 1, 1.0),), {"w": torch.zeros(1)})
    writer.close()
    assert not (tmp_path / "states").exists()  # a state that ranks weights which are not there
    with pytest.raises(InputError, match=r"could not keep .*free space or mend the folder"):
        writer.check()
