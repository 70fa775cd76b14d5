"""The gradients of one step, computed by 1, 2, 3 and 4 processes:  python tests/numerics/worlds.py FOLDER"""

import os
import sys
import traceback
from pathlib import Path

import torch

from steel.runtime import start
from tests.numerics.one_step import config_of, take_step


def run_rank(folder: Path, rank: int, world: int) -> None:
    """Write what one rank ends up with to `folder/WORLD-RANK.pt`."""
    store = f"file://{folder}/store-{world}"
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "localhost"}
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    runtime = start("no")
    assert (runtime.rank, runtime.world) == (rank, world)
    gradients, loss = take_step(runtime, config_of())
    torch.save((gradients, loss), folder / f"{world}-{rank}.pt")
    runtime.close()


def main(folder: Path) -> int:
    """Forked, not spawned: each process would spend seconds on imports."""
    torch.set_num_threads(1)
    for world in (1, 2, 3, 4):
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                try:
                    run_rank(folder, rank, world)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
