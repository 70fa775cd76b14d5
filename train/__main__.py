"""Train on this machine:  python -m train --data SHARDS --out RUN [--preset NAME] [--processes N] [--cpu] [...]
or predict on it:       python -m train predict FILE IMAGES --out DIR [--processes N] [--cpu] [...]
or evaluate on it:      python -m train evaluate --checkpoint FILE --data SHARDS --out DIR [--processes N] [--cpu] [...]

The same arguments as train.fit, train.predict or train.evaluate. A rank on each GPU, or one process on the CPU, without
a launcher's words around the program's own: its last line is what matters, and its exit code is the program's. Clusters
call `accelerate launch`.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from steel.commands.common import Parser
from steel.errors import InputError, run_program, told_url
from steel.option_values import whole
from steel.shards.format import Manifest

CONFIGURATIONS = Path(__file__).parents[1] / "launch" / "accelerate"
OPTIONS = {
    "--processes N": "how many ranks; by default one per GPU, or one in all on the CPU",
    "--cpu": "take the CPU even where there is a GPU",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, predict or evaluate; returns the exit code of `train.fit`, `train.predict` or `train.evaluate`."""
    parser = Parser(prog="train", add_help=False)
    parser.add_argument("--processes", type=whole)
    parser.add_argument("--cpu", action="store_true")
    own, rest = parser.parse_known_args(argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("`python -m train` starts the ranks itself; under a launcher start `-m train.fit`")
    if own.cpu:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    other = rest[0] if rest[:1] in (["predict"], ["evaluate"]) else None
    if other is None:
        announce(rest)
    gpus = count_gpus()
    processes = choose_processes(own.processes, gpus)
    start = partial(_start_ranks, gpus=gpus)
    if other is not None:
        return _run_other(other, rest[1:], processes, start)
    return _fit(rest, processes, start, is_given=own.processes is not None)


def announce(words: Sequence[str]) -> None:
    """The first line, before seconds of imports: what will be trained on what.

    What is missing or wrong is told later, by what looks at everything.
    """
    parser = Parser(add_help=False)
    for option in ("--data", "--out", "--preset"):
        parser.add_argument(option)
    known, _ = parser.parse_known_args(words)
    if known.data is None or known.out is None:
        return
    with contextlib.suppress(InputError, OSError):
        manifest = Manifest.load(known.data)
        recipe = "the recipe made of them"
        if known.preset not in (None, "auto"):
            from train.presets import get_preset

            recipe = f"preset {get_preset(known.preset).preset}"
        sys.stderr.write(
            f"{told_url(known.data)}: {manifest.held()} of {', '.join(manifest.class_names)}; {recipe}; {known.out}\n"
        )
        sys.stderr.flush()


_Start = Callable[[str, list[str], int], int | signal.Signals]
"""Starts so many ranks of a module with its words; see `_start_ranks`."""


def _fit(words: list[str], processes: int, start: _Start, *, is_given: bool) -> int:
    from train.arguments import parse_fit
    from train.fit import fit

    arguments = parse_fit("train", words, more=OPTIONS)  # mistakes are found before any rank is started
    if not is_given:
        processes = busy_processes(processes, [phase.micro_batches for phase in arguments.config.phases])
    if processes == 1:
        return fit(arguments)
    before = _status(arguments.out)
    ended = start("train.fit", words, processes)
    if isinstance(ended, signal.Signals):
        return exit_code_after(ended, before, _status(arguments.out))
    return ended


def _run_other(name: str, words: list[str], processes: int, start: _Start) -> int:
    """`predict` or `evaluate`; what they have done by the time a signal ends them stands in no status.json."""
    build_parser, run = _program(name)
    parser = build_parser(f"train {name}")
    here = parser.add_argument_group("on this machine")
    for option, meaning in OPTIONS.items():  # taken out of the words before, and told of here
        here.add_argument(option.split()[0], action="store_true", help=meaning)
    arguments = parser.parse_args(words)
    if processes == 1:
        return run(arguments)
    ended = start(f"train.{name}", words, processes)
    if isinstance(ended, signal.Signals):
        return exit_code_after(ended, {}, {})
    return ended


def _program(name: str) -> tuple[Callable[[str], argparse.ArgumentParser], Callable[[argparse.Namespace], int]]:
    """What makes the command line of a program of that name, and what runs it."""
    if name == "predict":
        from train.predict import build_parser, predict

        return build_parser, predict
    from train import evaluate

    return evaluate.build_parser, evaluate.evaluate


def _start_ranks(module: str, words: list[str], processes: int, *, gpus: int) -> int | signal.Signals:
    from steel.distributed.launcher import launch_ranks

    return launch_ranks(
        module,
        words,
        processes=processes,
        threads=1 if gpus else max(1, len(os.sched_getaffinity(0)) // processes),
        config_file=CONFIGURATIONS / ("ddp8.yaml" if gpus else "cpu2.yaml"),
    )


def count_gpus() -> int:
    """Those of this machine that this process may use."""
    import torch  # only now: it takes seconds

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_processes(wanted: int | None, gpus: int) -> int:
    """How many ranks to start.

    Without a GPU that is one, which uses all cores: several would share them and pass each other gradients besides.
    """
    if wanted is None:
        return max(1, gpus)
    if wanted < 1:
        raise InputError(f"--processes {wanted}: at least 1")
    if 0 < gpus < wanted:
        raise InputError(f"--processes {wanted}: the GPUs here take {gpus}, a rank each; or add --cpu")
    return wanted


def busy_processes(gpus: int, micro_batches: Sequence[int]) -> int:
    """How many of the GPUs get a rank when nobody says: a rank for each, but no more than a step has micro-batches.

    Args:
        gpus: at least 1.
        micro_batches: of a step of each phase.
    """
    most = min(micro_batches)
    if most >= gpus:
        return gpus
    sys.stderr.write(
        f"{most} of {gpus} GPUs are used, as a step has no more than {most} micro-batch{'es' if most > 1 else ''}; "
        "a larger --phases.N.batch-size has more\n"
    )
    return most


def exit_code_after(received: signal.Signals, before: dict[str, Any], after: dict[str, Any]) -> int:
    """The exit code of a job that a signal ended, from what status.json said before and after: 0 if it was saved."""
    if after != before and after.get("state") in ("interrupted", "finished"):
        return 0
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    return 128 + received


def _status(out: str) -> dict[str, Any]:
    from train.engine.run_folder import RunFolder

    with contextlib.suppress(InputError):  # the ranks say what is wrong with it
        return RunFolder(out).status() or {}
    return {}


if __name__ == "__main__":
    sys.exit(run_program(main))
