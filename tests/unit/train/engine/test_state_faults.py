"""A save that breaks off at any of its file operations: a valid state always exists, and the next start finds it."""

import errno
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from steel.errors import exit_code
from tests.file_faults import Breaker, die, fail_with, in_child
from train.engine.loop_state import LoopState
from train.engine.state import SavedState, StateWriteError, find_newest_state, read_state, write_state


def state(step: int) -> SavedState:
    return SavedState(LoopState(step=step), (), {"model.w": torch.full((64,), float(step))})


def save_third(folder: Path, at: int | None, fault: Callable[[], None]) -> list[str]:
    """Save step 3 where 1 and 2 are, with leftovers of a killed save; the file operations that were seen."""
    with Breaker(folder, at, fault).installed() as breaker:
        write_state(folder, state(3), keep=2)
    return breaker.seen


def two_states(folder: Path) -> Path:
    for step in (1, 2):
        write_state(folder, state(step), keep=2)
    (folder / ".staging-000000-00000003").mkdir()
    (folder / ".staging-000000-00000003" / "tensors.safetensors").write_bytes(b"half")
    return folder


def check_valid(folder: Path) -> int:
    """The step of the state that the next start would resume; its tensors must be those of that step."""
    path, _ = find_newest_state(folder)
    assert path is not None, "no valid state is left"
    found = read_state(path)
    step = found.loop.step
    assert found.tensors["model.w"].tolist() == [float(step)] * 64
    return step


def check_next_save(folder: Path) -> None:
    """The next save succeeds and leaves nothing but whole states."""
    write_state(folder, state(4), keep=2)
    assert check_valid(folder) == 4
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2 and not names[0].startswith("."), names


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    seen = save_third(two_states(tmp_path_factory.mktemp("faultless")), None, die)
    names = {operation.split()[0].rstrip(",") for operation in seen}
    assert {"mkdir", "save_file", "open", "fsync", "rename", "rmdir"} <= names, names
    return seen


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_an_error_at_any_operation(tmp_path: Path, operations: list[str], number: int) -> None:
    for at, operation in enumerate(operations):
        is_named = any("rename" in earlier for earlier in operations[:at])
        folder = two_states(tmp_path / str(at))
        problem = ""
        try:
            save_third(folder, at, fail_with(number))
        except StateWriteError as error:
            problem = str(error)
        if problem:  # once the state stands under its name, only its last flush can fail
            assert check_valid(folder) == (3 if is_named else 2), operation
            assert str(folder) in problem and "\n" not in problem
        else:  # it concerned what a save can do without: removing older states
            assert check_valid(folder) == 3, operation
        check_next_save(folder)


def test_room_that_runs_out_while_tensors_are_written_is_no_mistake_in_the_input(tmp_path: Path) -> None:
    """safetensors writes by itself, and its error has no number."""

    def save_what_has_no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        big = {"model.w": torch.ones(1000)}
        with pytest.raises(StateWriteError) as error:
            write_state(tmp_path, SavedState(LoopState(step=3), (), big), keep=2)
        assert isinstance(error.value.__cause__, SafetensorError)
        assert exit_code(error.value) == 1

    two_states(tmp_path)
    assert in_child(save_what_has_no_room) == 0
    assert check_valid(tmp_path) == 2


def test_death_at_any_operation(tmp_path: Path, operations: list[str]) -> None:
    for at, operation in enumerate(operations):
        folder = two_states(tmp_path / str(at))

        def killed(folder: Path = folder, at: int = at) -> None:
            save_third(folder, at, die)

        assert in_child(killed) == -signal.SIGKILL, operation
        assert check_valid(folder) in (2, 3), operation
        check_next_save(folder)


def test_death_at_any_operation_of_the_first_save(tmp_path: Path) -> None:
    with Breaker(tmp_path, None, die).installed() as breaker:
        write_state(tmp_path / "states", state(1), keep=2)
    for at, operation in enumerate(breaker.seen):
        root = tmp_path / f"run{at}"
        root.mkdir()

        def killed(root: Path = root, at: int = at) -> None:
            with Breaker(root, at, die).installed():
                write_state(root / "states", state(1), keep=2)

        assert in_child(killed) == -signal.SIGKILL, operation
        path, skipped = find_newest_state(root / "states")
        assert not skipped, operation  # what is there under its final name is whole
        assert path is None or read_state(path).loop.step == 1
        assert write_state(root / "states", state(1), keep=2).is_dir()
