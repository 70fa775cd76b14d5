"""What programs import before they are needed decides how long they take to start: pinned by module, not by time."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from steel.errors import run_program
from steel.startup import (
    Terminated,
    imports_end_at_once,
    interruptions_wait,
    program_ends_at_once,
    sigterm_unwinds,
    uncollected,
)
from tests.paths import ROOT

LISTED = """
import sys
{code}
own = {{"steel", "train", "data_prep", "__main__", "__mp_main__"}} | set(sys.stdlib_module_names)
print("@", *sorted({{name.split(".")[0] for name in sys.modules}} - own))
"""
COMMAND = """
from steel.cli import main
sys.argv = ["steel", {words}]
try:
    main()
except SystemExit:
    pass
"""
HELP, PREDICT_HELP = COMMAND.format(words='"--help"'), COMMAND.format(words='"predict", "--help"')
PREDICT = """
import numpy
from steel.config import NetworkConfig
from steel.inference.predictor import Predictor
from steel.model.network import UnifiedModel
model = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, 1))
Predictor([model], mean=[0.4], std=[0.2], device="cpu").predict([numpy.zeros((64, 64), numpy.uint8)])
"""


def packages_after(code: str) -> set[str]:
    """Of others, imported by some code; what the interpreter itself brings along is left out."""
    told = [
        subprocess.run([sys.executable, "-c", LISTED.format(code=each)], cwd=ROOT, capture_output=True, text=True)
        for each in ("", code)
    ]
    before, after = (set(each.stdout.rpartition("@")[2].split()) for each in told)
    assert told[1].returncode == 0, told[1].stderr
    return {name for name in after - before if not name.startswith(("_cython", "cython"))}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import steel", set()),
        (HELP, set()),
        (PREDICT_HELP, {"PIL", "cv2", "numpy", "simplejpeg"}),
    ],
)
def test_the_command_line_imports_these_packages_alone(code: str, expected: set[str]) -> None:
    assert packages_after(code) == expected


@pytest.mark.parametrize(
    ("code", "spared"),
    [
        ("import steel.inference.predictor", {"accelerate", "albumentations", "onnxruntime", "scipy", "wandb"}),
        (PREDICT, {"accelerate", "albumentations", "onnxruntime", "scipy", "sympy", "wandb"}),
        ("import train.fit", {"onnxruntime", "matplotlib", "sklearn", "tensorboard", "wandb", "webdataset"}),
    ],
)
def test_predicting_and_training_do_not_import(code: str, spared: set[str]) -> None:
    compilers = "\nassert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules), 'the compiler'"
    found = packages_after(code + compilers)
    assert "torch" in found
    assert not found & spared


COUNTED = """
import gc
begun = []
gc.callbacks.append(lambda phase, info: begun.append(phase))
from steel import Predictor
assert gc.isenabled()
print("@", begun.count("start"))
"""


def test_imports_are_not_stopped_for_collections() -> None:
    """They would be 610 times."""
    done = subprocess.run([sys.executable, "-c", COUNTED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.rpartition("@")[2]) <= 40


def test_collections_go_on_after_imports_as_before() -> None:
    try:
        for is_enabled in (True, False):
            (gc.enable if is_enabled else gc.disable)()
            with uncollected():
                assert not gc.isenabled()
                made = [[]]
            assert gc.isenabled() == is_enabled
            assert any(each is made for each in gc.get_objects(generation=2))
    finally:
        gc.enable()


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests run

class Dropped:
    def __del__(self):  # what is raised here is lost
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(100))

class Finder:
    place = {place}

    def find_spec(self, name, path=None, target=None):
        if name == self.place:
            Dropped()

sys.meta_path.insert(0, Finder())
"""
COMMAND = (
    INTERRUPTED
    + """
from {program}.__main__ import main
sys.exit(main())
"""
)


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("steel", "steel.cli"),
        ("steel", "steel.commands.models"),
        ("steel", "steel.inference.load"),
        ("bench.quality", "bench.quality.severstal"),
    ],
)
def test_ctrl_c_in_an_import_ends_the_command_in_one_line(program: str, module: str) -> None:
    """Also where Python would lose it, as in what it calls when it drops the lock of a module."""
    code = COMMAND.format(program=program, place=repr(module))
    line = [sys.executable, "-c", code, "info", "missing.safetensors"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("data_prep", "numpy"),
        ("data_prep.verify", "numpy"),
        ("train", "steel.errors"),
        ("train.fit", "torch"),
        ("train.evaluate", "steel.metrics.scores"),
        ("train.predict", "torch"),
        ("train.crossval", "accelerate"),
        ("train.second_round", "numpy"),
        ("train.doctor", "steel.errors"),
    ],
)
def test_ctrl_c_in_an_import_ends_each_program_in_one_line(program: str, module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED.format(place=repr(module)))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", program, "--help"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_what_ignores_ctrl_c_goes_on_ignoring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["-m"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with imports_end_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            program_ends_at_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_anywhere_else_is_an_exception_as_ever() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests run
    try:
        with pytest.raises(KeyboardInterrupt), imports_end_at_once():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_leaves_nothing_half_written(workers: str, tmp_path: Path) -> None:
    """Images are there when it comes; a second one, as of `timeout`, which tells the group as well, is the same
    stop."""
    line = [sys.executable, "-m", "steel", "synth", str(tmp_path / "s"), "--num-train", "2000", "--workers", workers]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(tmp_path.rglob("*.jpg"))
        process.terminate()
        process.terminate()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (143, "", "stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_sigterm_in_an_import_ends_the_command_in_one_line() -> None:
    code = COMMAND.format(program="steel", place=repr("steel.inference.load")).replace("SIGINT", "SIGTERM")
    line = [sys.executable, "-c", code.replace("signal.default_int_handler", "signal.SIG_DFL"), "info", "missing"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "stopped by SIGTERM\n")


CLEANED = """
import os, signal, sys, time
from steel.errors import run_program

def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up")

sys.exit(run_program(main))
"""


def test_a_second_sigterm_waits_for_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", CLEANED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "")


def test_sigterm_is_an_exception_in_the_block_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(Terminated), sigterm_unwinds():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert run_program(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_who_handles_sigterm_or_ignores_it_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the block or in it, as `steel serve` and training do; and a launcher has the ranks that it started."""
    came: list[int] = []

    def own(number: int, _: object) -> None:
        came.append(number)

    try:
        for handler in (own, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, handler)
            with sigterm_unwinds():
                signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with sigterm_unwinds():
            signal.signal(signal.SIGTERM, own)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert came == [signal.SIGTERM] * 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    with sigterm_unwinds():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_end_of_a_block(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with interruptions_wait():
            threading.Thread(target=signal.raise_signal, args=(number,)).start()  # the system tells any thread
            time.sleep(0.2)
            done.append("block")
        done.append("more")

    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests run
    try:
        with sigterm_unwinds():
            before = signal.getsignal(number)
            with pytest.raises(KeyboardInterrupt):
                work()
            assert signal.getsignal(number) is before
    finally:
        signal.signal(signal.SIGINT, former)
    assert done == ["block"]


def test_ignored_interruptions_stay_ignored_in_a_block() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptions_wait():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
