"""Programs one after another: their exit codes come back, and signals reach the one that runs, once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from train.second_round.programs import Programs, ProgramsEnded

WAITING = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (here.with_suffix(".told").open("a").write("x"), sys.exit(int(sys.argv[2]))))
here.touch()
time.sleep(60)
"""
WRITING = """
import pathlib, sys, time
here = pathlib.Path(sys.argv[1])
for number in range(600):
    here.write_text(str(number))
    time.sleep(0.1)
"""
STARTING = """
import sys
from train.second_round.programs import Programs
with Programs().handing_on() as programs:
    programs.run("writes", sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small programs."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ends_with.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    (tmp_path / "is_killed.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "waits.py").write_text(WAITING)
    (tmp_path / "writes.py").write_text(WRITING)
    return tmp_path


def signal_when(path: Path) -> threading.Thread:
    """Send this process SIGTERM when a file is there."""

    def watch() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_exit_codes_are_handed_on() -> None:
    programs = Programs()
    programs.run("ends_with", ["0"])
    programs.run("ends_with", ["3"], fine=(0, 3))
    for module, words, code in (("ends_with", ["3"], 3), ("is_killed", [], 137), ("no_such_program", [], 1)):
        with pytest.raises(ProgramsEnded) as ended:
            programs.run(module, words)
        assert ended.value.code == code


@pytest.mark.parametrize("code", [0, 5])
def test_a_signal_reaches_the_program_that_runs_and_nothing_is_started_after_it(modules: Path, code: int) -> None:
    """Whatever the program makes of it; and the handler that there was before is there again."""
    before = signal.getsignal(signal.SIGTERM)
    thread = signal_when(modules / "here")
    with Programs().handing_on() as programs, pytest.raises(ProgramsEnded) as ended:
        programs.run("waits", [str(modules / "here"), str(code)])
    thread.join()
    with pytest.raises(ProgramsEnded, match="0"):
        programs.run("waits", [str(modules / "not started"), "1"])
    assert not (modules / "not started").exists()
    assert ended.value.code == code and programs.received == signal.SIGTERM
    assert (modules / "here.told").read_text() == "x"
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_ignored(modules: Path) -> None:
    """As SIGHUP under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Programs().handing_on() as programs:
            os.kill(os.getpid(), signal.SIGHUP)
            programs.run("ends_with", ["0"])
        assert programs.received is None
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_program_does_not_outlive_the_one_that_started_it(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed can hand nothing on."""
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{os.getcwd()}")
    written = modules / "written"
    starter = subprocess.Popen([sys.executable, "-c", STARTING, str(written)])
    while not written.exists():
        assert starter.poll() is None
        time.sleep(0.01)
    starter.kill()
    starter.wait()
    time.sleep(0.5)
    last = written.read_text()
    time.sleep(1)
    assert written.read_text() == last
