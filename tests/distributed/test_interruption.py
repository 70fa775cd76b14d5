"""Stops and kills of jobs launched as a user launches them; the resumed run must be the undisturbed one."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.distributed.launching import TINY, Job, command, is_alive, leaking, run, torchrun
from tests.distributed.memory_cgroup import memory_cgroup

LONG = [*TINY, "--phases.0.epochs", "12", "--runtime.save-every", "3", "--validation.every-epochs", "6"]
"""14 steps, then 2; long enough to be met in the middle."""


def options(shards: Path, out: Path, *more: str) -> list[str]:
    return [*LONG, "--data", str(shards), "--out", str(out), *more]


def fit(processes: int, shards: Path, out: Path, *more: str) -> list[str]:
    return command(processes, "train.fit", options(shards, out, *more))


def status(out: Path) -> dict[str, Any]:
    return json.loads((out / "status.json").read_text())


def losses(out: Path) -> list[tuple[Any, ...]]:
    """What the history says of training, but for the speed."""
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [(r["kind"], r["global_step"], r.get("loss"), r.get("mean_dice")) for r in records]


def assert_same_result(found: Path, expected: Path) -> None:
    assert status(found)["state"] == "finished"
    assert losses(found) == losses(expected)
    ours, theirs = (load_file(out / "model.safetensors") for out in (found, expected))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def undisturbed(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(2, "train.fit", *options(tiny_shards, out))
    return out


@pytest.fixture
def job(tmp_path: Path, tiny_shards: Path) -> Iterator[Callable[..., Job]]:
    """Starts a two-rank fit in `tmp_path/run` and ends whatever is left of it."""
    jobs: list[Job] = []

    def start(line: list[str] | None = None, **extra: str) -> Job:
        out = tmp_path / "run"
        jobs.append(Job(line or fit(2, tiny_shards, out), tmp_path / "log", out, **extra))
        return jobs[-1]

    yield start
    for started in jobs:
        started.end()


def test_a_stop_signal_is_resumed(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job]
) -> None:
    out = tmp_path / "run"
    first = job()
    first.wait_for_step(4)
    first.launcher.send_signal(signal.SIGTERM)
    first.wait()
    assert status(out)["state"] == "interrupted" and "SIGTERM" in status(out)["reason"], first.output()
    assert first.ranks() == []
    run(2, "train.fit", *options(tiny_shards, out))
    assert status(out)["attempt"] == 2
    assert_same_result(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("told", ["one rank", "all ranks"])
def test_signals_to_ranks(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job], number: signal.Signals, told: str
) -> None:
    """All ranks save the same step and exit with 0, and so does the launcher; loader workers live through it."""
    out = tmp_path / "run"
    first = job(fit(2, tiny_shards, out, "--runtime.workers", "1"))
    first.wait_for_step(4)
    for rank in first.ranks()[1:] if told == "one rank" else first.family():
        os.kill(rank, number)
    assert first.wait() == 0, first.output()
    assert status(out)["state"] == "interrupted", first.output()
    assert first.family() == []
    run(2, "train.fit", *options(tiny_shards, out))
    assert_same_result(out, undisturbed)


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_is_named(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job]
) -> None:
    out = tmp_path / "run"
    first = job()
    first.wait_for_step(4)
    victim = first.ranks()[1]
    os.kill(victim, signal.SIGKILL)
    begun = time.monotonic()
    assert first.wait() != 0
    assert time.monotonic() - begun < 60
    assert status(out)["state"] == "failed"
    assert "rank 1" in status(out)["reason"] and f"pid {victim}" in status(out)["reason"], status(out)
    assert first.ranks() == []
    run(2, "train.fit", *options(tiny_shards, out))
    assert_same_result(out, undisturbed)


@pytest.mark.slow
def test_a_rank_that_is_refused_memory_says_so(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job]
) -> None:
    out = tmp_path / "run"
    first = job(leaking("refused", options(tiny_shards, out)))
    assert first.wait() != 0
    reason = status(out)["reason"]
    assert status(out)["state"] == "failed" and "rank 1" in reason and "out of memory" in reason, first.output()
    assert "error: out of memory" in first.output() and "a smaller phases." in first.output()
    assert first.family() == []
    run(2, "train.fit", *options(tiny_shards, out))
    assert_same_result(out, undisturbed)


@pytest.mark.slow
def test_a_rank_that_the_kernel_kills_for_memory_is_named(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job]
) -> None:
    out = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        try:
            cgroup = stack.enter_context(memory_cgroup(2**26))
        except OSError as error:
            pytest.skip(f"needs a memory cgroup: {error}")
        first = job(leaking(cgroup, options(tiny_shards, out)))
        assert first.wait() != 0
    assert status(out)["state"] == "failed" and "rank 1" in status(out)["reason"], first.output()
    assert first.family() == []
    run(2, "train.fit", *options(tiny_shards, out))
    assert_same_result(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ranks_die_with_their_launcher(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job], processes: int
) -> None:
    out = tmp_path / "run"
    if processes == 1:
        line = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--mixed_precision", "no"]
        line += ["--num_machines", "1", "--dynamo_backend", "no", "-m", "train.fit"]
        first = job([*line, *options(tiny_shards, out)])
    else:
        first = job()
    first.wait_for_step(4)
    family = first.family()
    first.launcher.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_alive, family)):
        time.sleep(0.2)
    assert not any(map(is_alive, family)), "ranks outlived their launcher"
    ended = status(out)  # a rank that saw another go before its own turn came may have said so
    assert ended["state"] == "running" or "its launcher is gone" in ended["reason"], ended
    run(2, "train.fit", *options(tiny_shards, out))
    assert status(out)["state"] == "finished"
    if processes == 2:
        assert_same_result(out, undisturbed)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_job_and_is_named(tmp_path: Path, job: Callable[..., Job]) -> None:
    out = tmp_path / "run"
    first = job(STEEL_RANK_SILENCE_S="6")
    first.wait_for_step(4)
    victim = first.ranks()[1]
    os.kill(victim, signal.SIGSTOP)
    assert first.wait(timeout=80) != 0
    reason = status(out)["reason"]
    assert status(out)["state"] == "failed" and f"pid {victim}" in reason and "silent" in reason, status(out)
    assert reason.splitlines()[0] in first.output()
    assert not is_alive(victim)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_torchrun_restarts_and_goes_on(
    tmp_path: Path, tiny_shards: Path, undisturbed: Path, job: Callable[..., Job], fault: signal.Signals
) -> None:
    out = tmp_path / "run"
    line = [*torchrun(2, "--max-restarts", "1"), "-m", "train.fit"]
    first = job([*line, *options(tiny_shards, out)], STEEL_RANK_SILENCE_S="6")
    first.wait_for_step(4)
    os.kill(first.ranks()[1], fault)
    assert first.wait(timeout=200) == 0, first.output()
    assert status(out)["attempt"] == 2
    assert_same_result(out, undisturbed)


@pytest.mark.slow
def test_four_then_three_then_two_processes(tmp_path: Path, tiny_shards: Path, job: Callable[..., Job]) -> None:
    """Every position is trained once, in the same order and the same micro-batches, whoever computes them."""
    out, record = tmp_path / "run", tmp_path / "positions"
    record.mkdir()
    for processes, step in ((4, 4), (3, 8), (2, None)):
        line = [
            *torchrun(processes),
            "tests/distributed/programs/recording_fit.py",
            str(record),
            *options(tiny_shards, out),
        ]
        attempt = job(line)
        if step is not None:
            attempt.wait_for_step(step)
            os.kill(attempt.ranks()[0], signal.SIGTERM)
        assert attempt.wait(timeout=200) == 0, attempt.output()
    assert status(out)["state"] == "finished"
    seen = sorted(tuple(json.loads(line)) for path in record.iterdir() for line in path.read_text().splitlines())
    batch, micro_batch = 8, 2
    expected = [
        (phase, step, index, step * batch + index * micro_batch)
        for phase, steps in ((0, 14), (1, 2))
        for step in range(steps)
        for index in range(batch // micro_batch)
    ]
    assert [tuple(line[:4]) for line in seen] == expected
    assert len({line[4] for line in seen}) == 3  # the worlds that took part


@pytest.mark.slow
def test_more_processes_than_micro_batches(tmp_path: Path, tiny_shards: Path) -> None:
    out = tmp_path / "run"
    options = [*TINY, "--phases.1.micro-batch", "8", "--data", tiny_shards, "--out", out]
    done = run(2, "train.fit", *options, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0
    assert len(lines) == 1 and "2 processes share 1 micro-batch per step" in lines[0], done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_a_cross_validation_on_all(tmp_path: Path, tiny_shards: Path) -> None:
    """The others would wait for the one that leaves in the member to come."""
    out = tmp_path / "run" / "fold-0"
    line = command(2, "train.crossval", options(tiny_shards, tmp_path / "run"))
    started = Job(line, tmp_path / "log", out)
    try:
        started.wait_for_step(4)
        os.kill(started.ranks()[1], signal.SIGTERM)
        assert started.wait(timeout=120) == 0, started.output()
    finally:
        started.end()
    assert status(out)["state"] == "interrupted" and not (tmp_path / "run" / "fold-1").exists()
