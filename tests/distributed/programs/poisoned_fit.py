"""`train.fit` that meets a value that is not finite once: poisoned_fit.py ARGUMENT...

It enters the network with the first micro-batch of step 3, on one rank alone, and poisons every running statistic on
its way to the loss. The step has to be skipped by all ranks.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from steel.errors import run_program
from train.engine.micro_batch_losses import MicroBatchLosses
from train.engine.step import TrainingState
from train.fit import main

POISONED = (0, 3, 0)
"""Phase, step, micro-batch."""


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """While the block runs."""
    compute, compute_losses = TrainingState._micro_step, MicroBatchLosses.of
    place: tuple[int, int, int] | None = None

    def noting(self: TrainingState, plan: Any, step: int, batch: Any, *, last: bool) -> Any:
        nonlocal place
        place = (plan.number, step, batch.index)
        return compute(self, plan, step, batch, last=last)

    def poisoning(self: MicroBatchLosses, network: Any, *rest: Any) -> Any:
        def network_of_nan(inputs: torch.Tensor) -> Any:
            return network(inputs * torch.nan)

        return compute_losses(self, network_of_nan if place == POISONED else network, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "_micro_step", noting)
        patch.setattr(MicroBatchLosses, "of", poisoning)
        yield


if __name__ == "__main__":
    with poisoned():
        sys.exit(run_program(lambda: main(sys.argv[1:])))
