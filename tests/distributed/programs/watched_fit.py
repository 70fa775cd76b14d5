"""`train.fit` that also notes what each rank's steps do: watched_fit.py COMPILER FOLDER ARGUMENT...

`FOLDER/rankN.jsonl` gets a line for each optimizer step; see `Watched`. COMPILER is torch's name of the one that a
compiled step is given to: `inductor`, or `aot_eager` for the same graphs without the minutes of generating code.
"""

import functools
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from steel.errors import run_program
from train.engine.step import TrainingState
from train.fit import main

BACKWARD, SUM = "backward", "sum"
_EVENTS = {
    "autograd::engine::evaluate_function: ConvolutionBackward0": BACKWARD,
    "autograd::engine::evaluate_function: CompiledFunctionBackward": BACKWARD,
    "c10d::allreduce_": SUM,
}
"""By their names in a profile: the backward pass of one layer or of one graph, a sum over the ranks that is begun."""


@dataclass
class Watched:
    """One optimizer step of one rank."""

    place: tuple[int, int]
    """Phase and step."""
    is_compiled: bool
    events: list[str]
    """BACKWARD and SUM in the order in which they began."""
    digest: str
    """Of all that the step has changed: weights, average, optimizer, running statistics."""


def watch_into(folder: Path) -> None:
    """For the rest of the process."""
    step = TrainingState.step

    def watched(self: TrainingState, plan: Any, number: int, *arguments: Any) -> Any:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            sums = step(self, plan, number, *arguments)
        begun = sorted(seen.events(), key=lambda event: event.time_range.start)
        events = [_EVENTS[event.name] for event in begun if event.name in _EVENTS]
        line = Watched((plan.number, number), self.micro_batch_losses.is_compiled, events, digest(self))
        with (folder / f"rank{self.runtime.rank}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")
        return sums

    TrainingState.step = watched  # type: ignore[method-assign]


def digest(training: TrainingState) -> str:
    """A sha256 of every tensor of a resumable state."""
    found = hashlib.sha256()
    for _, tensor in sorted(training.tensors().items()):
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def compile_by(compiler: str) -> None:
    """For the rest of the process."""
    if compiler == "inductor":
        return
    compile_step = torch.compile

    def compile_quickly(function: Any, *, options: Any, **others: Any) -> Any:
        return compile_step(function, backend=compiler, **others)

    torch.compile = functools.wraps(compile_step)(compile_quickly)


if __name__ == "__main__":
    compile_by(sys.argv[1])
    watch_into(Path(sys.argv[2]))
    sys.exit(run_program(lambda: main(sys.argv[3:])))
