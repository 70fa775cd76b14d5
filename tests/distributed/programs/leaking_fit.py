"""`train.fit` whose rank 1 leaks memory from step 4 on until it gets no more: leaking_fit.py LIMIT ARGUMENT...

LIMIT is `refused` (allocations fail, as without overcommit or on a full device), or the folder of a memory cgroup,
which the rank enters and whose limit makes the kernel kill it.
"""

import os
import resource
import sys
from pathlib import Path

import torch

from steel.errors import run_program
from train.engine.step import TrainingState
from train.fit import main

FIRST_STEP = 4
ROOM = 2**27
PIECE = 2**24


def leak_under(limit: str) -> None:
    """Let rank 1 run out of memory in its first micro-batch of step 4 or later."""
    compute = TrainingState._micro_step
    leaked: list[torch.Tensor] = []

    def leaking(self, plan, step, batch, *, last):  # type: ignore[no-untyped-def]
        if self.runtime.rank == 1 and step >= FIRST_STEP:
            if limit == "refused":
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM,) * 2)
            else:
                (Path(limit) / "cgroup.procs").write_text(str(os.getpid()))
            while True:
                leaked.append(torch.ones(PIECE))
        return compute(self, plan, step, batch, last=last)

    TrainingState._micro_step = leaking  # type: ignore[method-assign]


if __name__ == "__main__":
    leak_under(sys.argv[1])
    sys.exit(run_program(lambda: main(sys.argv[2:])))
