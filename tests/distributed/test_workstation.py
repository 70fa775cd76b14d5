"""`python -m train` as on a workstation: one line where there is something to say, and the program's exit code."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steel.errors import InputError
from tests.distributed.launching import TINY, Job, is_alive, run
from tests.watching import status
from train.__main__ import announce, busy_processes, choose_processes, exit_code_after, main

LONG = [*TINY, "--phases.0.epochs", "25", "--validation.every-epochs", "25", "--runtime.save-every", "3"]
NOISE = ("Traceback", "torch.distributed", "ChildFailedError", "SignalException", "W1", "E1")
"""What the launcher would say."""


def options(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(shards), "--out", str(out), *more]


@pytest.fixture
def job(tmp_path: Path, tiny_shards: Path) -> Iterator[Callable[..., Job]]:
    """Starts `python -m train` in `tmp_path/run` and ends whatever is left of it."""
    jobs: list[Job] = []

    def start(*more: str) -> Job:
        out = tmp_path / "run"
        line = [sys.executable, "-m", "train", *LONG, *options(tiny_shards, out), *more]
        jobs.append(Job(line, tmp_path / "log", out))
        return jobs[-1]

    yield start
    for started in jobs:
        started.end()


def assert_quiet(output: str) -> None:
    assert not any(word in output for word in NOISE), output


def test_ctrl_c_in_the_middle_saves_and_the_same_command_goes_on(job, tiny_shards, tmp_path):
    out = tmp_path / "run"
    first = job("--processes", "2")
    first.wait_for_step(4)
    ranks = first.ranks()
    assert len(ranks) == 2
    os.killpg(first.launcher.pid, signal.SIGINT)  # as a terminal does, to all that stand in the foreground
    assert first.wait() == 0, first.output()
    assert_quiet(first.output())
    assert first.output().splitlines()[-1].startswith("stopped by SIGINT; state saved")
    assert status(out)["state"] == "interrupted" and first.family() == []
    done = run(1, "train", *LONG, *options(tiny_shards, out, "--processes", "2"))
    assert status(out)["state"] == "finished" and status(out)["attempt"] == 2
    assert "resuming at phase crops" in done.stderr
    assert_quiet(done.stderr)


def test_a_mistake_that_the_ranks_find_is_one_line(tmp_path):
    done = run(1, "train", *TINY, *options(tmp_path / "nothing", tmp_path / "run", "--processes", "2"), check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'nothing'}: no manifest.json")


def test_a_mistake_in_the_command_starts_no_rank(monkeypatch, tmp_path):
    monkeypatch.setattr("steel.distributed.launcher.launch_ranks", lambda *arguments, **more: pytest.fail("started"))
    data = options(tmp_path, tmp_path / "run")
    with pytest.raises(InputError, match="--processes 0: at least 1"):
        main([*TINY, *data, "--processes", "0"])
    with pytest.raises(InputError, match="--out is missing"):
        main([*TINY, "--data", "x", "--processes", "2"])
    with pytest.raises(InputError, match="--no-such-option: no such option"):
        main([*TINY, *data, "--processes", "2", "--no-such-option", "1"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="under a launcher start"):
        main([*TINY, *data])


@pytest.mark.parametrize(
    ("wanted", "gpus", "processes"), [(None, 0, 1), (None, 1, 1), (None, 8, 8), (3, 0, 3), (2, 8, 2), (1, 1, 1)]
)
def test_how_many_ranks(wanted, gpus, processes):
    assert choose_processes(wanted, gpus) == processes


def test_no_two_ranks_on_a_gpu():
    with pytest.raises(InputError, match=r"--processes 3: the GPUs here take 2.*--cpu"):
        choose_processes(3, 2)


def test_the_first_line_says_what_is_trained_on_what(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    announce(["--data", str(tiny_shards), "--out", out, "--phases.0.epochs", "3"])
    announce(["--data", str(tiny_shards), "--out", out, "--preset", "smoke"])
    announce(["--data", str(tiny_shards), "--out", out, "--preset", "smok"])
    announce(["--data", str(tmp_path), "--out", out])  # told later, with all else that is wrong
    announce(["--help"])
    first = f"{tiny_shards}: 27 images of class 1, class 2, class 3, class 4; "
    assert capsys.readouterr().err.splitlines() == [
        f"{first}the recipe made of them; {out}",
        f"{first}preset smoke; {out}",
    ]


@pytest.mark.parametrize(
    ("gpus", "micro_batches", "ranks"), [(1, [1, 1], 1), (8, [8, 8], 8), (8, [9, 8], 8), (8, [4, 1], 1), (2, [8, 1], 1)]
)
def test_no_gpu_gets_a_rank_without_work(
    gpus: int, micro_batches: list[int], ranks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert busy_processes(gpus, micro_batches) == ranks
    told = f"{ranks} of {gpus} GPUs are used, as a step has no more than {ranks} micro-batch;"
    assert capsys.readouterr().err.startswith(told if ranks < gpus else "")


def test_what_a_signal_made_of_the_job():
    former, saved = {"state": "interrupted", "attempt": 1}, {"state": "interrupted", "attempt": 2}
    assert exit_code_after(signal.SIGINT, former, saved) == 0
    assert exit_code_after(signal.SIGTERM, {}, {"state": "finished", "attempt": 1}) == 0
    assert exit_code_after(signal.SIGTERM, former, former) == 143  # it had not begun
    assert exit_code_after(signal.SIGTERM, former, {"state": "running", "attempt": 2}) == 143
    with pytest.raises(KeyboardInterrupt):  # which is 130
        exit_code_after(signal.SIGINT, {}, {"state": "failed", "attempt": 1})


@pytest.mark.slow
def test_a_killed_rank_is_named(job, tmp_path):
    first = job("--processes", "2")
    first.wait_for_step(4)
    victim = first.ranks()[1]
    os.kill(victim, signal.SIGKILL)
    assert first.wait() == 1
    assert_quiet(first.output())
    errors = [line for line in first.output().splitlines() if line.startswith("error:")]
    assert errors == [
        f"error: {status(tmp_path / 'run')['reason']}",
        "error: rank 1 was ended by SIGKILL",
    ]
    assert f"pid {victim}" in errors[0] and first.family() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_the_launcher_alone_is_passed_on(job, tmp_path, number):
    first = job("--processes", "3", "--runtime.workers", "1")
    first.wait_for_step(4)
    first.launcher.send_signal(number)
    assert first.wait() == 0, first.output()
    assert status(tmp_path / "run")["state"] == "interrupted" and first.family() == []
    assert_quiet(first.output())


@pytest.mark.slow
def test_ctrl_c_twice_leaves_nothing_running(job):
    first = job("--processes", "2")
    first.wait_for_step(4)
    family = first.family()
    for _ in range(3):
        os.killpg(first.launcher.pid, signal.SIGINT)
        time.sleep(0.3)
    first.wait()
    deadline = time.monotonic() + 20
    while any(map(is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, family)), first.output()
    assert_quiet(first.output())


@pytest.mark.slow
def test_one_process_needs_no_launcher(job, tmp_path):
    first = job()
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "history.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.launcher.pid, signal.SIGINT)
    assert first.wait() == 0, first.output()
    assert status(tmp_path / "run")["state"] == "interrupted"
    assert_quiet(first.output())
