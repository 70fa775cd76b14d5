"""Breaks training in every way it must survive, and tables what came of it:  python -m bench.faults [--trials N]

Each trial starts a run as a user does, injects one fault in mid-training, starts the same command again where the fault
ended the job, and compares the finished run with an undisturbed one, bit for bit: weights, losses, scores.
Writes bench/faults.md; takes about a minute a trial.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.made_by import begin, fact_lines, facts_of_run
from data_prep.__main__ import main as shard
from steel.commands.common import Parser, make_way
from steel.errors import run_program
from steel.option_values import positive
from steel.synthetic.dataset import synthesize
from tests.distributed.launching import TINY, Job, command, leaking, run, torchrun
from tests.distributed.memory_cgroup import memory_cgroup
from tests.file_faults import Breaker, die, fail_with, in_child
from train.engine.loop_state import LoopState
from train.engine.metric_logger import TIMED
from train.engine.state import SavedState, StateWriteError, find_newest_state, write_state

OPTIONS = [*TINY, "--phases.0.epochs", "12", "--runtime.save-every", "3", "--validation.every-epochs", "6"]
STEPS_TO_FAULT = 4


@dataclass
class Tally:
    """What became of the trials of one fault."""

    fault: str
    injection: str
    trials: int = 0
    survived: int = 0
    repeated_steps: list[int] = field(default_factory=list)
    """Steps that were trained but not yet saved, and so were trained again."""
    seconds: list[float] = field(default_factory=list)
    """From the fault to the end of the job's last process."""
    words: str = ""
    """What the last trial's status.json says."""

    def line(self) -> str:
        """The table's row."""
        lost = "nothing" if self.survived == self.trials else f"**{self.trials - self.survived} runs**"
        repeated = f"{max(self.repeated_steps)}" if self.repeated_steps else "-"
        seconds = f"{max(self.seconds):.0f}" if self.seconds else "-"
        cells = (self.fault, self.injection, self.trials, self.survived, lost, repeated, seconds, self.words or "-")
        return "| " + " | ".join(map(str, cells)) + " |"


class Bench:
    """The data, the undisturbed run, and trials on them."""

    def __init__(self, work: Path) -> None:
        self.work = work
        synthesize(str(work / "data"), 27, 5, 0, height=64, width=160, class_share=(0.2, 0.2, 0.3, 0.2), workers=1)
        self.shards = work / "shards"
        images = ["--images", work / "data" / "train_images", "--labels", work / "data" / "train.csv"]
        assert shard([str(o) for o in (*images, "--out", self.shards, "--folds", 3, "--shard-size", 10)]) == 0
        self.expected = self.work / "undisturbed"
        run(2, "train.fit", *self.options(self.expected))

    def options(self, out: Path) -> list[str]:
        """Of a training with `train.fit` into `out`."""
        return [*OPTIONS, "--data", str(self.shards), "--out", str(out)]

    def same(self, out: Path) -> bool:
        """Whether a finished run equals the undisturbed one."""
        return status(out)["state"] == "finished" and outcome(out) == outcome(self.expected)

    def try_fault(
        self,
        tally: Tally,
        inject: Callable[[Job], None],
        *,
        line: Callable[[Path], list[str]],
        goes_on: bool = False,
        after: int = STEPS_TO_FAULT,
    ) -> None:
        """One trial: start, break, start again unless the job `goes_on` by itself, compare."""
        out = self.work / "run"
        job = Job(line(out), self.work / "log", out, STEEL_RANK_SILENCE_S="10")
        try:
            job.wait_for_step(after)
            begun = time.monotonic()
            inject(job)
            job.wait(timeout=300)
            while job.family() and time.monotonic() - begun < 300:
                time.sleep(0.1)
            tally.seconds.append(time.monotonic() - begun)
            if not goes_on:
                reason = status(out)["reason"].replace(str(out), "RUN")
                tally.words = status(out)["state"] + (f": {reason}" if reason else "")
                tally.repeated_steps.append(max(0, last_step(out) - newest_step(out)))
                run(2, "train.fit", *self.options(out))
            tally.trials += 1
            tally.survived += self.same(out)
        finally:
            job.end()
            shutil.rmtree(out, ignore_errors=True)

    def launched(self, out: Path) -> list[str]:
        """The command line of two ranks under accelerate's launcher."""
        return command(2, "train.fit", self.options(out))

    def restarting(self, out: Path) -> list[str]:
        """Of two ranks under torchrun, which starts them again twice."""
        return [*torchrun(2, "--max-restarts", "2"), "-m", "train.fit", *self.options(out)]

    def cramped(self, out: Path) -> list[str]:
        """Files of at most 8 MB: a state needs more."""
        return ["bash", "-c", 'ulimit -f 8000; exec "$@"', "bash", *self.launched(out)]

    def leaking(self, limit: str | Path) -> Callable[[Path], list[str]]:
        """Of a training whose memory grows up to `limit`, as a function of its run folder."""
        return lambda out: leaking(limit, self.options(out))


def status(out: Path) -> dict[str, str]:
    """What `status.json` of a run says."""
    return json.loads((out / "status.json").read_text())


def outcome(out: Path) -> tuple[object, object]:
    """What two runs must have alike: the history but for what depends on time, and the bytes of the weights."""
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    weights = {name: tensor.numpy().tobytes() for name, tensor in load_file(out / "model.safetensors").items()}
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records], weights


def last_step(out: Path) -> int:
    """The last step that a run's history tells of."""
    return max(json.loads(line)["global_step"] for line in (out / "history.jsonl").read_text().splitlines())


def newest_step(out: Path) -> int:
    """The step of the newest intact state; 0 without one."""
    path, _ = find_newest_state(out / "states")
    return 0 if path is None else int(path.name.partition("-")[2])


def send(number: signal.Signals, whom: str) -> Callable[[Job], None]:
    """A fault: this signal, to `launcher`, `one rank` or `all processes` of a job."""

    def inject(job: Job) -> None:
        if whom == "launcher":
            job.launcher.send_signal(number)
        for process in {"launcher": [], "one rank": job.ranks()[1:], "all processes": job.family()}[whom]:
            os.kill(process, number)

    return inject


def damage_newest(job: Job) -> None:
    """kill -9 of everything, then a flipped bit in the newest state."""
    job.launcher.kill()
    while job.family():
        time.sleep(0.1)
    path, _ = find_newest_state(job.out / "states")
    assert path is not None
    tensors = path / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[len(data) // 2] ^= 1
    tensors.write_bytes(data)


def break_saves(work: Path, tally: Tally, fault: Callable[[], None]) -> None:
    """A trial at every file operation of a save: afterwards a valid state is there, and the next save succeeds."""

    def state(step: int) -> object:
        return SavedState(LoopState(step=step), (), {"w": torch.full((1000,), float(step))})

    def save(folder: Path, at: int | None) -> list[str]:
        with Breaker(folder, at, fault).installed() as breaker:
            write_state(folder, state(2), keep=1)  # type: ignore[arg-type]
        return breaker.seen

    def prepared(name: str) -> Path:
        folder = work / "saves" / name
        write_state(folder, state(1), keep=1)  # type: ignore[arg-type]
        return folder

    operations = save(prepared("whole"), None)
    for at in range(len(operations)):
        folder = prepared(str(at))
        if fault is die:
            in_child(lambda folder=folder, at=at: save(folder, at))  # type: ignore[misc]
        else:
            with contextlib.suppress(StateWriteError):
                save(folder, at)
        path, _ = find_newest_state(folder)
        tally.trials += 1
        write_state(folder, state(3), keep=1)  # type: ignore[arg-type]
        again, _ = find_newest_state(folder)
        tally.survived += path is not None and again is not None and again.name.endswith("3")
    shutil.rmtree(work / "saves")


HEAD = """# Faults

Each trial is a real run of two gloo ranks ({steps} steps in two phases, a state every 3 steps), broken after step {at},
started again with the same command, and compared bit for bit with an undisturbed run: weights, logged losses and
validation scores. *Survived* means equal. *Repeated* is the largest number of logged steps that were not yet in a state
and were trained again; *seconds* the longest time from the fault to the end of the job's last process, with
`STEEL_RANK_SILENCE_S=10` (90 by default); where a run breaks by itself (memory, no room), from a step shortly before.
Faults in a save are injected at every file operation of one state in turn; survived means that a valid state is there
and the next save succeeds.

{facts}

| fault | how it is injected | trials | survived | lost | repeated | seconds | what status.json said |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Try every fault, and write the table."""
    parser = Parser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--trials", type=positive, default=3, metavar="N", help="runs per fault")
    out = Path(__file__).with_suffix(".md")
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="the table")
    arguments = parser.parse_args()
    make_way([], [str(arguments.out)])
    begun = begin()
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))

        def fault(label: str, injection: str, inject: Callable[[Job], None], **how: Any) -> None:
            tally = Tally(label, injection)
            tallies.append(tally)
            for _ in range(arguments.trials):
                bench.try_fault(tally, inject, **{"line": bench.launched, **how})
            print(tally.line(), flush=True)

        for label, broken in (
            ("killed while saving", die),
            ("disk full while saving", fail_with(errno.ENOSPC)),
            ("permission withdrawn while saving", fail_with(errno.EACCES)),
        ):
            tally = Tally(label, "at each file operation of a save in turn")
            break_saves(bench.work, tally, broken)
            tallies.append(tally)
            print(tally.line(), flush=True)
        fault("stopped", "SIGTERM to the launcher", send(signal.SIGTERM, "launcher"))
        fault("interrupted", "SIGINT to all ranks at once", send(signal.SIGINT, "all processes"))
        fault("warned", "SIGUSR1 to one rank", send(signal.SIGUSR1, "one rank"))
        fault("a rank dies", "kill -9 of rank 1", send(signal.SIGKILL, "one rank"))
        fault("a rank hangs", "SIGSTOP of rank 1", send(signal.SIGSTOP, "one rank"))
        fault("the launcher dies", "kill -9 of the launcher", send(signal.SIGKILL, "launcher"))
        fault("the newest state is damaged", "kill -9, then one bit flipped", damage_newest)
        leaking: dict[str, Any] = {"inject": lambda job: None, "after": STEPS_TO_FAULT - 1}
        fault("a rank is refused memory", "rank 1 leaks under RLIMIT_AS", line=bench.leaking("refused"), **leaking)
        label, injection = "the kernel kills a rank for memory", "rank 1 leaks in a cgroup of 64 MiB"
        with contextlib.ExitStack() as stack:
            try:
                cgroup = stack.enter_context(memory_cgroup(2**26))
            except OSError as error:
                tallies.append(Tally(label, f"not tried: {error}"))
            else:
                fault(label, injection, line=bench.leaking(cgroup), **leaking)
        fault("no room for a state", "ulimit -f below a state's size", lambda job: None, line=bench.cramped, after=1)
        restart = "kill -9 of rank 1 under `torchrun --max-restarts 2`; nobody intervenes"
        fault("a rank dies, elastic", restart, send(signal.SIGKILL, "one rank"), line=bench.restarting, goes_on=True)
    facts = "\n".join(fact_lines(facts_of_run("bench.faults", begun, ("torch", "accelerate"))))
    head = HEAD.format(facts=facts, steps=16, at=STEPS_TO_FAULT)
    arguments.out.write_text(head + "\n".join(tally.line() for tally in tallies) + "\n")


if __name__ == "__main__":
    sys.exit(run_program(main))
