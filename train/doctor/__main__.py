"""Look a training job over:  python -m train.doctor [--data SHARDS [--preset NAME]] [--out DIR]

Run it the way the training will be run (`accelerate launch ... -m train.doctor`, torchrun, srun): it prints what a
support thread asks first, measures disk, sums over ranks and data loading, and says in plain words what is wrong. With
a preset it measures the preset's batches and steps, too, as they are by default, with decoded samples held and, on a
GPU or with --compile, with a compiled step, and says what bounds the run. The exit code is 1 when something is wrong.
"""

import contextlib
import functools
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from steel.commands.common import Parser, local_folder
from steel.distributed.ending import end_program
from steel.errors import run_program
from steel.machine import count_workers, parse_workers
from train.doctor.checks import (
    Finding,
    check_disk,
    check_gpus,
    check_launcher,
    check_machine,
    check_meeting_place,
    check_versions,
    refuse_odd_ranks,
    run_checks,
)
from train.presets import AUTO, PRESETS

if TYPE_CHECKING:
    from steel.distributed.runtime import Runtime

JOIN_SECONDS = 60.0
PROBE_LIMIT_SECONDS = 120.0
PRESET_LIMIT_SECONDS = 900.0
"""A step of the largest preset takes a minute on two CPU cores."""
COMPILE_LIMIT_SECONDS = 3600.0
"""With --compile: on busy cores that takes many minutes, for each phase."""
_MARKS = {"fine": " ", "warning": "!", "problem": "x"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = Parser(
        prog="python -m train.doctor",
        description="Look a training job over and say in plain words what is wrong.",
    )
    parser.add_argument("--data", metavar="SHARDS", help="shards to read samples and training batches from")
    parser.add_argument("--preset", choices=(AUTO, *PRESETS), help="also measure its batches and steps on --data")
    parser.add_argument(
        "--out", metavar="DIR", type=local_folder, default="runs", help="where a run folder would be written"
    )
    parser.add_argument("--workers", type=parse_workers, default="auto", help="data-loader processes per rank")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="time a compiled step of --preset on a CPU, too, which takes minutes; on a GPU that is always done",
    )
    arguments = parser.parse_args(argv)
    if arguments.compile and not arguments.preset:
        parser.error("--compile: it is a preset's step that is compiled; name one with --preset")
    refuse_odd_ranks(os.environ)
    logging.getLogger().setLevel(logging.ERROR)

    findings = run_checks(
        {
            "packages": check_versions,
            "machine": check_machine,
            "gpu": check_gpus,
            "launcher": check_launcher,
            "disk": lambda: check_disk(arguments.out),
        }
    )
    try:
        from steel.distributed.runtime import start

        with _limit(JOIN_SECONDS, findings, _why_alone()):
            runtime = start()
            runtime.barrier()
    except Exception as error:
        return _report_alone(findings, f"this rank cannot join the others: {error}")

    def report_failure(failure: str) -> None:
        _report_alone(findings, failure.removeprefix(f"rank {runtime.rank}: "))

    limit = PRESET_LIMIT_SECONDS if arguments.preset else PROBE_LIMIT_SECONDS
    limit = COMPILE_LIMIT_SECONDS if arguments.compile else limit
    with (
        runtime.running(),
        runtime.guard(report_failure),
        _limit(
            limit,
            findings,
            "a measurement hangs: some rank is stuck or has died",
        ),
    ):
        compiles = arguments.compile or runtime.device.type == "cuda"
        workers = count_workers(arguments.workers, runtime.cores)
        findings += _measure(runtime, arguments.data, workers, arguments.preset, compiles=compiles)
        collected = runtime.all_gather(findings)
        problems = _report(dict(enumerate(collected))) if runtime.is_main else 0
        return runtime.broadcast(problems)


def _measure(
    runtime: "Runtime", data: str | None, workers: int, preset: str | None, *, compiles: bool
) -> list[Finding]:
    """What needs the other ranks or the data; every rank comes through here the same way."""
    from steel.shards.reader import ShardReader
    from train.doctor.benchmarks import check_shards, probe_loader, probe_sum

    findings = run_checks({"all-reduce": lambda: probe_sum(runtime)})
    if data is None:
        return [*findings, Finding("shards", "not looked at; give --data SHARDS")]
    reader = None
    try:
        reader = ShardReader(data)
    except ValueError as error:
        findings.append(Finding("shards", str(error), "problem"))
    else:
        findings += run_checks({"shards": functools.partial(check_shards, reader, runtime.rank)})
    # Each rank has looked at samples of its own, by a path of its own, and none may wait for one that has stopped here.
    is_damaged = any(finding.level == "problem" and finding.subject == "shards" for finding in findings)
    if any(runtime.all_gather(is_damaged)) or reader is None:
        return findings
    if preset is None:
        return findings + run_checks({"loader": lambda: probe_loader(reader, workers, runtime)})
    from train.doctor.preset_benchmarks import probe_preset
    from train.fitting import preset_for

    return findings + run_checks(
        {"preset": lambda: probe_preset(runtime, preset_for(preset, reader), reader, workers, compiles=compiles)}
    )


@contextlib.contextmanager
def _limit(seconds: float, findings: list[Finding], message: str) -> Iterator[None]:
    """End the process with a report when the block takes longer: a rank that waits for another cannot be woken."""

    def give_up() -> None:
        _report_alone(findings, message)
        sys.stdout.flush()
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _why_alone() -> str:
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return (
        f"waited {JOIN_SECONDS:.0f} s for {os.environ.get('WORLD_SIZE', '1')} ranks to meet at {place}: some were not "
        "started, or the address is wrong, or a firewall closes that port or those that the ranks open to each other"
    )


def _report_alone(findings: list[Finding], message: str) -> int:
    """Report what this rank knows when the others cannot be asked; only rank 0 says what is fine."""
    rank = int(os.environ.get("RANK") or 0)
    findings = [f for f in findings if rank == 0 or f.level != "fine"]
    findings += run_checks({"world": lambda: check_meeting_place(os.environ)})
    return _report(
        {rank: [*findings, Finding("world", f"rank {rank} on {socket.gethostname()}: {message}", "problem")]}
    )


def _report(findings_of_rank: dict[int, list[Finding]]) -> int:
    """Print all findings, each once with the ranks it holds for; returns the exit code."""
    ranks_of: dict[Finding, list[int]] = {}
    for rank, findings in findings_of_rank.items():
        for finding in findings:
            ranks_of.setdefault(finding, []).append(rank)
    fine = [finding.subject for finding in ranks_of if finding.level == "fine"]
    if fine.count("python") > 1 or fine.count("packages") > 1:
        differing = Finding("packages", "ranks have different versions; use one environment everywhere", "problem")
        ranks_of[differing] = list(findings_of_rank)
    subjects = list(dict.fromkeys(finding.subject for finding in ranks_of))
    lines = []
    for finding in sorted(ranks_of, key=lambda finding: subjects.index(finding.subject)):
        ranks = ranks_of[finding]
        whose = "" if len(ranks) == len(findings_of_rank) else f"  (rank {', '.join(map(str, ranks))})"
        lines.append(f"{_MARKS[finding.level]} {finding.subject:<10} {finding.text}{whose}")
    problems = sum(finding.level == "problem" for finding in ranks_of)
    warnings = sum(finding.level == "warning" for finding in ranks_of)
    lines += ["", f"problems (x): {problems}, warnings (!): {warnings}" if problems or warnings else "nothing is wrong"]
    print("\n".join(lines))  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    end_program(run_program(main))
