"""What a program says at its end, and in which order a failing run of one process says and records it."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steel.distributed.ending import Ending
from steel.errors import (
    InputError,
    LostRankError,
    OutOfMemoryError,
    ResourceError,
    SharedError,
    alike_on_all_ranks,
    report,
    run_program,
)
from tests.paths import ROOT
from train.fit import main


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("--data x: no such folder"), "error: --data x: no such folder", 2),
        (SharedError("--out x: in use"), "error: --out x: in use", 2),
        (LostRankError("rank 1 is gone"), "error: rank 1 is gone", 1),
        (OutOfMemoryError("out of memory (host)"), "error: out of memory (host)", 1),
        (OSError(errno.EACCES, "Permission denied", "a"), "error: Permission denied: a", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_an_error_is_said_once(error, line, code, capsys):
    def program() -> int:
        assert report(error) == code  # as the guard does, before anything is closed
        raise error

    assert run_program(program) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_defect_is_left_to_the_interpreter(capsys):
    for error in (KeyError("x"), OSError(errno.EBADF, "Bad file descriptor"), SystemExit(3)):
        with pytest.raises(type(error)):
            run_program(lambda error=error: (_ for _ in ()).throw(error))
    assert capsys.readouterr().err == ""


def test_other_ranks_leave_what_all_find_to_rank_0(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert report(SharedError("--out x: in use")) == 2 and report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""
    assert report(InputError("no such file on this node")) == 2
    assert capsys.readouterr().err == "error: no such file on this node\n"


def test_what_all_ranks_find_alike_is_told_from_what_one_finds():
    def found(error: InputError) -> InputError:
        with pytest.raises(InputError) as raised, alike_on_all_ranks():
            raise error
        return raised.value

    shared = found(InputError("folds: none"))
    assert isinstance(shared, SharedError) and (str(shared), shared.code) == ("folds: none", 2)
    for error in (SharedError("--out x: in use", 1), ResourceError("no room on this node")):
        assert found(error) is error


def test_the_first_failure_counts_and_one_that_cannot_be_recorded_is_said(capsys):
    ending, recorded = Ending(0), []
    with ending.recording(recorded.append), ending.recording(None):
        ending.fail(InputError("first"))
        ending.fail(InputError("a consequence"))
    assert recorded == ["rank 0: first"] and ending.code == 2
    assert capsys.readouterr().err == "error: first\n"

    def cannot_record(reason: str) -> None:
        raise OSError("no space")

    ending = Ending(0)
    with ending.recording(cannot_record):
        ending.fail(KeyError("x"))
    assert ending.code == 1


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("the images are gone"), "the images are gone"),
        (
            RuntimeError("CUDA error: out of memory\nmore"),
            "out of memory (CUDA error: out of memory); a smaller phases.0.crop needs less",
        ),
    ],
)
def test_a_failing_run_says_why_before_it_closes_anything(
    error: Exception, reason: str, tiny_shards: Path, tmp_path: Path, monkeypatch, capsys
):
    """Its tracker may wait for a server that does not answer."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    order: list[str] = []
    options = ["--preset", "smoke", "--runtime.workers", "0", "--tracking.tracker", "none", "--runtime.precision", "no"]

    def broken(self: object, *arguments: object) -> None:
        raise error

    def finish(self: object, status: str) -> None:
        order.append(f"tracker {status} after {capsys.readouterr().err!r}, {(tmp_path / 'status.json').read_text()}")

    monkeypatch.setattr("train.engine.step.TrainingState.step", broken)
    monkeypatch.setattr("steel.tracking.queue.NullTracker.finish", finish)
    with pytest.raises((InputError, OutOfMemoryError)):
        main([*options, "--data", str(tiny_shards), "--out", str(tmp_path)])
    (finished,) = order
    assert finished.startswith(f"tracker failed after 'error: {reason}\\n'")
    assert '"state": "failed"' in finished and f'"reason": "rank 0: {reason}"' in finished


END = """
import atexit, sys
from steel.distributed.ending import end_program

class Held:
    def __del__(self):
        print("taken apart")

held = Held()
atexit.register(print, "as registered")
print("last words")
sys.stdout.write("without a line's end ")
end_program(3)
"""


@pytest.mark.parametrize(("world", "is_taken_apart"), [(None, True), ("1", True), ("2", False)])
def test_one_of_several_ranks_ends_without_taking_the_interpreter_apart(
    world: str | None, is_taken_apart: bool
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    environment |= {} if world is None else {"WORLD_SIZE": world}
    done = subprocess.run([sys.executable, "-c", END], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    words = "last words\nwithout a line's end as registered\n"
    assert done.stdout == words + ("taken apart\n" if is_taken_apart else "")


def test_every_program_of_several_ranks_ends_so() -> None:
    """Whatever joins a job under a launcher."""
    programs = [path for path in (ROOT / "train").rglob("*.py") if ".running()" in path.read_text()]
    assert len(programs) >= 5
    for path in programs:
        assert "    end_program(run_program(main))\n" in path.read_text(), path
