"""A program of several ranks of which rank 1 fails where the others wait for it: failing.py MODULE ARGUMENT..."""

import importlib
import sys
from typing import Any

import torch.distributed as dist

from steel.distributed.runtime import Runtime
from steel.errors import InputError, run_program
from steel.machine import Binding

REASON = "the disk of this node is broken"


def fail_on_rank_1() -> None:
    """Let rank 1 fail before it hands over what it has found; a group that is destroyed after that says so."""
    gather, destroy = Runtime.all_gather, dist.destroy_process_group

    def failing(self: Runtime, value: Any) -> list[Any]:
        if self.rank == 1 and not isinstance(value, Binding):  # which is told while the ranks join
            raise InputError(REASON)
        return gather(self, value)

    def destroying() -> None:
        print("a group was destroyed", file=sys.stderr, flush=True)
        destroy()

    Runtime.all_gather = failing  # type: ignore[method-assign]
    dist.destroy_process_group = destroying


if __name__ == "__main__":
    fail_on_rank_1()
    program = importlib.import_module(sys.argv[1])
    sys.exit(run_program(lambda: program.main(sys.argv[2:])))
