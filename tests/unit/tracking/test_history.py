import json
import os

import numpy as np
import pytest

from steel.errors import InputError
from steel.tracking.history import History


def record(phase: int, step: int, kind: str = "train") -> dict:
    return {"kind": kind, "phase": phase, "step": step, "loss": 0.5}


@pytest.fixture
def history(tmp_path):
    """Records at steps 10, 20 of phase 0 and 10, 20 of phase 1."""
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    for phase in (0, 1):
        for step in (10, 20):
            history.append(record(phase, step))
    return history


def positions(history: History) -> list[tuple[int, int]]:
    return [(r["phase"], r["step"]) for r in history.records()]


def test_records_come_back_as_written_without_closing(tmp_path):
    history = History(tmp_path / "history.jsonl")
    assert history.records() == []
    history.open_at(0, 0)
    history.append(record(0, 1) | {"dice": np.float32(0.25), "per_class": np.array([1, 2]), "loss": float("nan")})
    (read,) = History(history.path).records()
    assert read == record(0, 1) | {"dice": 0.25, "per_class": [1, 2], "loss": None}
    assert json.loads(history.path.read_text(), parse_constant=pytest.fail) == read


@pytest.mark.parametrize(
    ("position", "kept"),
    [((0, 0), 0), ((0, 9), 0), ((0, 10), 1), ((0, 99), 2), ((1, 0), 2), ((1, 15), 3), ((1, 20), 4), ((2, 0), 4)],
)
def test_resuming_takes_back_what_lies_beyond(history, position, kept):
    before = positions(history)
    resumed = History(history.path)
    resumed.open_at(*position)
    assert positions(resumed) == before[:kept]
    resumed.append(record(5, 5))
    assert positions(resumed) == [*before[:kept], (5, 5)]
    assert sorted(p.name for p in history.path.parent.iterdir()) == ["history.jsonl"]


@pytest.mark.parametrize(("validated", "kept"), [(False, ["train"]), (True, ["train", "validation", "train"])])
def test_a_validation_that_is_made_again_takes_back_what_follows_it_at_its_step(tmp_path, validated, kept):
    """Such as the steps that an early stop has logged, before the crash."""
    history = History(tmp_path / "history.jsonl")
    history.open_at(0, 0)
    for kind in ("train", "validation", "train"):
        history.append(record(0, 10, kind))
    history.append(record(1, 5))
    history.open_at(0, 10, validated=validated)
    assert [each["kind"] for each in history.records()] == kept


def test_a_line_cut_short_by_a_crash_is_dropped(history):
    with open(history.path, "ab") as file:
        file.write(b'{"kind": "train", "phase": 1, "st')
    assert len(history.records()) == 4
    history.open_at(1, 30)
    history.append(record(1, 30))
    assert positions(history)[-2:] == [(1, 20), (1, 30)]


@pytest.mark.parametrize("line", [b"rubbish\n", b'{"kind": "train"}\n', b"[1]\n", b"\xff\xfe\n"])
def test_a_damaged_line_is_named_and_nothing_is_changed(history, line):
    history.path.write_bytes(line + history.path.read_bytes())
    before = history.path.read_bytes()
    with pytest.raises(InputError, match=r"history\.jsonl: line 1 is not a record"):
        History(history.path).open_at(0, 0)
    assert history.path.read_bytes() == before


def test_a_crash_while_taking_records_back_leaves_the_old_ones(history, monkeypatch):
    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    before = history.path.read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        History(history.path).open_at(0, 10)
    assert history.path.read_bytes() == before


def test_only_validations_wait_for_the_disk(history, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    history.append(record(1, 30))
    assert not synced
    history.append(record(1, 30, kind="validation"))
    assert len(synced) == 1
