"""When a training saves its states: each once, at the steps that were asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steel.distributed.runtime import start
from tests.numerics.programs.every_stop import attempt
from tests.numerics.quick import quicken
from train.engine.state_writer import StateWriter

OPTIONS = "--model.encoder tu-test_resnet --model.decoder-channels 8 8 --runtime.save-minutes 0".split()
"""9 training images, in steps of 4: a validation follows the third step of the first phase, and its last one."""


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> list[tuple[int, int]]:
    """Phase and step of each state that is copied to be written, on a disk that takes no time."""
    torch.set_num_threads(1)
    quicken(monkeypatch)
    places: list[tuple[int, int]] = []
    submit = StateWriter.submit

    def noting(self: StateWriter, loop: Any, *arguments: Any) -> None:
        places.append((loop.phase, loop.step))
        submit(self, loop, *arguments)
        self.wait()

    monkeypatch.setattr(StateWriter, "submit", noting)
    return places


@pytest.mark.parametrize(
    ("every", "stop_after", "step", "is_validation_due"),
    [
        pytest.param("0", 1, 2, False, id="at no other save"),
        pytest.param("2", 1, 2, False, id="at one by steps"),
        pytest.param("2", 2, 2, False, id="told by the step that one by steps has finished"),
        pytest.param("0", 2, 3, True, id="at the one before a validation"),
        pytest.param("0", 3, 3, True, id="told by the step that the one before a validation has finished"),
    ],
)
def test_a_stop_signal_saves_once(
    every: str,
    stop_after: int,
    step: int,
    is_validation_due: bool,
    saved: list[tuple[int, int]],
    tiny_shards: Path,
    tmp_path: Path,
) -> None:
    attempt(start("no"), str(tiny_shards), tmp_path, [*OPTIONS, "--runtime.save-every", every], stop_after)
    assert saved == [(0, step)]
    (state,) = (tmp_path / "states").iterdir()
    loop = json.loads((state / "state.json").read_text())["loop"]
    assert (loop["step"], loop["validation_due"]) == (step, is_validation_due)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted"


def test_states_by_steps_and_before_validations(
    saved: list[tuple[int, int]], tiny_shards: Path, tmp_path: Path
) -> None:
    options = "--phases.0.epochs 5 --validation.every-epochs 2.5 --runtime.save-every 4".split()
    attempt(start("no"), str(tiny_shards), tmp_path, [*OPTIONS, *options], None)
    assert saved == [(0, 4), (0, 6), (0, 8), (0, 11), (0, 12), (1, 2)]
