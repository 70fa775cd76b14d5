"""What 1, 2, 3 and 4 processes make of a step and of a whole run.

python tests/numerics/programs/worlds.py SHARDS FOLDER
"""

import hashlib
import os
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torchvision

from steel.distributed.runtime import Runtime, start
from steel.distributed.signals import StopSignals
from tests.distributed.programs.poisoned_fit import poisoned
from tests.numerics.one_step import Float64Model, config_of, take_step
from tests.numerics.quick import quicken
from train.arguments import parse_fit
from train.engine.step import TrainingState
from train.fit import train_in_folder

OPTIONS = (
    "--preset smoke --phases.0.batch-size 10 --phases.1.batch-size 10 --phases.0.epochs 5 --phases.1.epochs 2 "
    "--phases.0.lr 2e-4 --phases.1.lr 1e-4 --optim.freeze-encoder-epochs 2.2 --validation.every-epochs 100 "
    "--validation.tta --phases.1.sampling.hard 0.5 --model.deep-supervision 2 --tracking.tracker none "
    "--tracking.log-every 1 --runtime.workers 0 --runtime.precision no"
).split()
"""Steps of 5 micro-batches, which 2, 3 and 4 ranks share unevenly: 5 steps of the first phase and 2 of the second. The
encoder is frozen for 2 steps, step 3 is skipped (see `poisoned_fit`), half of the second phase are hard examples."""


def run_rank(shards: str, folder: Path, rank: int, world: int) -> None:
    """Write what one rank ends up with to `folder/WORLD-RANK.pt`, and the run to `folder/WORLD`."""
    store = f"file://{folder}/store-{world}"
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "localhost"}
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    runtime = start("no")
    assert (runtime.rank, runtime.world) == (rank, world)
    gradients, loss = take_step(runtime, config_of(deep_supervision=2))
    digests = run_to_the_end(runtime, shards, folder / str(world))
    torch.save((gradients, loss, digests), folder / f"{world}-{rank}.pt")
    runtime.close()


def run_to_the_end(runtime: Runtime, shards: str, out: Path) -> list[str]:
    """Train in `out`, in float64; digests of this rank's running statistics after each step."""
    digests = []
    take = TrainingState.step

    def digesting(self, *arguments):  # type: ignore[no-untyped-def]
        sums = take(self, *arguments)
        held = self.statistics.take()
        digests.append(hashlib.sha256(held.values.numpy().tobytes() + held.counts.numpy().tobytes()).hexdigest())
        return sums

    with pytest.MonkeyPatch.context() as patch, poisoned():
        quicken(patch)
        patch.setattr(TrainingState, "step", digesting)
        patch.setattr("train.fit.UnifiedModel", Float64Model)
        if runtime.rank > 0:  # as on a node without the file
            patch.delattr("steel.pretrained.encoder.read_source")
        line = [*OPTIONS, "--model.weights", str(out.parent / "resnet18.pth"), "--data", shards, "--out", str(out)]
        arguments = parse_fit("worlds", line)
        train_in_folder(arguments, runtime, StopSignals())
    return digests


def main(shards: str, folder: Path) -> int:
    """Forked, not spawned: each process would spend seconds on imports."""
    torch.set_num_threads(1)
    torch.manual_seed(8)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    for world in (1, 2, 3, 4):
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                try:
                    run_rank(shards, folder, rank, world)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
