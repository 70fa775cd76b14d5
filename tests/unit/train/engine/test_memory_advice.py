"""What is said where memory has run out is what the user can do."""

from dataclasses import replace
from pathlib import Path

import pytest

from steel.errors import InputError, OutOfMemoryError, out_of_memory_as
from train.engine.memory_advice import less_memory
from train.engine.run_folder import RunFolder
from train.presets import SEVERSTAL

CROPS, FULL = SEVERSTAL.phases


@pytest.mark.parametrize(
    ("micro_batch", "option"),
    [(8, "phases.1.micro-batch (at the same batch size)"), (2, "phases.1.crop"), (1, "phases.1.crop")],
)
def test_a_micro_batch_that_can_hardly_be_smaller_leaves_the_crop(micro_batch: int, option: str) -> None:
    phases = {1: replace(FULL, micro_batch=micro_batch)}
    assert less_memory(phases, has_begun=False) == f"a smaller {option} needs less"
    told = less_memory({0: CROPS, **phases}, has_begun=False)
    assert told == f"a smaller phases.0.micro-batch (at the same batch size) or {option} needs less"


@pytest.mark.parametrize("change", [{"micro_batch": 4}, {"crop": (128, 128)}])
def test_a_run_with_states_is_not_sent_where_it_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(SEVERSTAL, "data", "auto")
    smaller = replace(SEVERSTAL, phases=(replace(CROPS, **change), FULL))  # type: ignore[arg-type]
    folder.check(smaller, "data", "auto")
    assert not folder.has_states
    (folder.states / "state-1").mkdir(parents=True)
    assert folder.has_states
    with pytest.raises(InputError, match="another configuration"):
        folder.check(smaller, "data", "auto")
    said = less_memory({0: CROPS}, has_begun=folder.has_states)
    assert "go on where there is more memory, or begin anew with another --out and a smaller phases.0.micro" in said


def test_advice_is_asked_for_once_memory_has_run_out() -> None:
    """By then a state may have been saved."""
    states: list[str] = []

    def train() -> None:
        with out_of_memory_as(lambda: f"{len(states)} state"):
            states.append("saved")
            raise MemoryError

    with pytest.raises(OutOfMemoryError, match=r"; 1 state$"):
        train()
