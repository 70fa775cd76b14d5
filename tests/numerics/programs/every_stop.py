"""Stops a run at chosen steps and resumes it; it must end as the undisturbed run. Started under torchrun.

torchrun --nproc-per-node 2 tests/numerics/programs/every_stop.py SHARDS WORK [PLAN ...] [--GROUP.FIELD VALUE ...]

A plan such as 2-3 stops the first attempt after 2 steps, the second after 3 more. Without plans: every step in turn,
and two stops in one run. Options are those of training.
"""

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from steel.distributed.runtime import Runtime, start
from steel.distributed.signals import StopSignals
from tests.numerics.quick import quicken
from train.arguments import parse_fit
from train.engine.metric_logger import TIMED
from train.fit import train_in_folder

OPTIONS = (
    "--preset smoke --phases.0.epochs 1.5 --phases.1.epochs 0.7 --phases.0.batch-size 4 --phases.0.micro-batch 1 "
    "--phases.1.batch-size 4 --phases.1.micro-batch 1 --phases.1.crop 32 96 --runtime.workers 0 "
    "--runtime.save-minutes 1e-6 --tracking.tracker none --tracking.log-every 2 --validation.tta "
    "--optim.average-top-k 2"
).split()
"""4 steps of the first phase, an epoch ending within, and 2 of the second; 2 micro-batches a rank and step."""


class StopAfter(StopSignals):
    """A stop signal that arrives at rank 0 during the n-th step of an attempt."""

    def __init__(self, steps: int | None, rank: int) -> None:
        super().__init__()
        self.left = steps if rank == 0 else None

    @property
    def received(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left <= 0


def attempt(runtime: Runtime, data: str, out: Path, options: list[str], stop_after: int | None) -> None:
    arguments = parse_fit("every_stop", [*OPTIONS, *options, "--data", data, "--out", str(out)])
    train_in_folder(arguments, runtime, StopAfter(stop_after, runtime.rank))
    runtime.accelerator.free_memory()
    runtime.barrier()


def outcome(out: Path) -> dict[str, object]:
    """What must not depend on interruptions: weights, every tensor of the last state, and the logged figures."""
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for record in history:
        for name in TIMED:
            record.pop(name, None)
    last_state = max((out / "states").iterdir())
    tensors = load_file(last_state / "tensors.safetensors")
    return {
        "history": history,
        "state": (last_state.name, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}),
        "weights": {k: v.numpy().tobytes() for k, v in load_file(out / "model.safetensors").items()},
    }


def stop_plans(history: list[dict[str, int]]) -> list[tuple[int, ...]]:
    steps = max(record["global_step"] for record in history)
    return [(k,) for k in range(1, steps + 1)] + [(2, 3), (1, 1)]


def main(data: str, work: Path, plans: list[tuple[int, ...]], options: list[str]) -> None:
    quicken(pytest.MonkeyPatch())
    runtime = start("no")
    attempt(runtime, data, work / "undisturbed", options, None)
    expected = outcome(work / "undisturbed")
    for plan in plans or stop_plans(expected["history"]):  # type: ignore[arg-type]
        out = work / "-".join(map(str, plan))
        for stop_after in (*plan, None):
            attempt(runtime, data, out, options, stop_after)
        if runtime.is_main:
            found = outcome(out)
            for name, value in expected.items():
                assert found[name] == value, f"stopped after {plan}: {name} differs"
            attempts = json.loads((out / "status.json").read_text())["attempt"]
            assert attempts == 1 + len(plan), f"stopped after {plan}: {attempts} attempts"
            shutil.rmtree(out)
            print(f"stopped after {plan}: the same", flush=True)
    runtime.close()


if __name__ == "__main__":
    words = sys.argv[3:]
    plans = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    stops: list[tuple[int, ...]] = [tuple(map(int, plan.split("-"))) for plan in plans]
    main(sys.argv[1], Path(sys.argv[2]), stops, words[len(plans) :])
