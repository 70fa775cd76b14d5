"""`train.fit` that also notes what each rank trains on: recording_fit.py FOLDER ARGUMENT..."""

import json
import sys
from pathlib import Path

from steel.errors import run_program
from train.engine.step import TrainingState
from train.fit import main


def record_into(folder: Path) -> None:
    """Write a line [phase, step, micro-batch, first position, world] for each micro-batch that is computed."""
    compute = TrainingState._micro_step

    def recorded(self, plan, step, batch, *, last):  # type: ignore[no-untyped-def]
        line = [plan.number, step, batch.index, int(batch.positions[0]), self.runtime.world]
        assert (batch.positions.diff() == 1).all()
        with (folder / f"rank{self.runtime.rank}").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return compute(self, plan, step, batch, last=last)

    TrainingState._micro_step = recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    record_into(Path(sys.argv[1]))
    sys.exit(run_program(lambda: main(sys.argv[2:])))
