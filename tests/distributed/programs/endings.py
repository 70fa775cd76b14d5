"""How jobs of three ranks end, each in a way of its own:  python tests/distributed/programs/endings.py FOLDER

Writes FOLDER/CASE-RANK.err (what the rank said), FOLDER/CASE-RANK.jsonl (what it did, and when) and FOLDER/codes.json.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import fake_pg  # noqa: F401 - makes the backend known

from steel.distributed import joining
from steel.distributed.heartbeat import Heartbeat
from steel.distributed.runtime import Runtime, start
from steel.errors import InputError, run_program

WORLD = 3
Note = Callable[..., None]


def fails(runtime: Runtime, note: Note) -> None:
    """Rank 1 meets a mistake while the others wait for it, and takes long to clean up."""
    with contextlib.ExitStack() as closing:
        if runtime.rank == 1:
            closing.callback(lambda: (time.sleep(2), note("cleaned up")))
        with runtime.guard(lambda reason: note("recorded", reason=reason)):
            if runtime.rank == 1:
                note("raised")
                raise InputError("the cache of this node is full")
            runtime.barrier()


def breaks(runtime: Runtime, note: Note) -> None:
    """Rank 2 meets a defect of ours."""
    if runtime.rank == 2:
        raise KeyError("no such thing")
    runtime.barrier()


def shares(runtime: Runtime, note: Note) -> None:
    """Rank 0 tells all the others of a mistake."""

    def task() -> None:
        raise InputError("--out is no folder")

    with runtime.guard(lambda reason: note("recorded", reason=reason)):
        runtime.on_main(task)


def dies(runtime: Runtime, note: Note) -> None:
    """Rank 1 is killed while the others wait for it."""
    with runtime.guard(lambda reason: note("recorded", reason=reason)):
        if runtime.rank == 1:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        runtime.barrier()


def hangs(runtime: Runtime, note: Note) -> None:
    """Rank 2 stops; the others wait for it."""
    if runtime.rank == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    runtime.barrier()


def is_interrupted(runtime: Runtime, note: Note) -> None:
    """Ctrl-C, of which rank 1 alone hears before the others come out of a collective."""
    if runtime.rank == 1:
        raise KeyboardInterrupt
    runtime.barrier()


def leaves(runtime: Runtime, note: Note) -> None:
    """Ranks 1 and 2 have nothing more to do, and rank 0 works on for longer than a rank may be silent."""
    if runtime.is_main:
        time.sleep(5.5)
        note("done")


def talks(runtime: Runtime, note: Note) -> None:
    """What the ranks tell each other where the default group moves nothing: as with NCCL, of another kind than gloo."""
    note("groups", default=dist.get_backend(), hosts=dist.get_backend(runtime.hosts))
    note("broadcast", value=runtime.broadcast({"rank": runtime.rank}))
    note("all_gather", value=runtime.all_gather(runtime.rank * 11))
    note("gather_on_main", value=runtime.gather_on_main(runtime.rank * 11, 2))
    note("sum_numbers", value=runtime.sum_numbers([1.0, float(runtime.rank), float("inf")]))
    note("on_main", value=runtime.on_main(lambda: runtime.rank))
    tensor, linear = torch.full((2,), 5.0), torch.nn.Linear(1, 1)
    before = linear.weight.item()
    runtime.all_reduce(tensor)
    runtime.broadcast_tensors(linear)
    note("tensors", reduced=tensor.tolist(), moved=linear.weight.item() != before)
    if runtime.rank == 0:
        time.sleep(1)
        note("late")
    runtime.barrier()
    note("together")


CASES: dict[str, Callable[[Runtime, Note], None]] = {
    case.__name__: case for case in (fails, breaks, shares, dies, hangs, is_interrupted, leaves, talks)
}


def run_rank(case: str, folder: Path, rank: int) -> int:
    """One rank from its start to its end; the exit code unless it ends by itself before."""
    output = os.open(folder / f"{case}-{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "localhost"}
    backend = "fake" if case == "talks" else "gloo"
    store = dist.FileStore(f"{folder}/store-{case}", WORLD)
    dist.init_process_group(backend, store=store, rank=rank, world_size=WORLD)

    def note(what: str, **more: object) -> None:
        said = (folder / f"{case}-{rank}.err").read_text()
        with (folder / f"{case}-{rank}.jsonl").open("a") as file:
            file.write(json.dumps({"what": what, "time": time.monotonic(), "said": said, **more}) + "\n")

    destroy, leave = dist.destroy_process_group, Heartbeat.leave

    def destroying() -> None:
        note("destroyed")
        destroy()

    def leaving(self: Heartbeat, failure: str = "", code: int = 1) -> None:
        leave(self, failure, code)
        note("told", reason=failure)

    dist.destroy_process_group = destroying
    Heartbeat.leave = leaving  # type: ignore[method-assign]
    if case in ("hangs", "leaves"):
        joining.Heartbeat = functools.partial(Heartbeat, silence_s=4.0)  # type: ignore[misc,assignment]

    def program() -> None:
        with start("no").running() as runtime:
            CASES[case](runtime, note)

    return run_program(program)


def main(folder: Path) -> None:
    """Forked, not spawned: each process would spend seconds on imports."""
    torch.set_num_threads(1)
    children: dict[int, tuple[str, int]] = {}
    for case in CASES:
        for rank in range(WORLD):
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    code = run_rank(case, folder, rank)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children[child] = (case, rank)
    codes: dict[str, list[int]] = {case: [-1] * WORLD for case in CASES}
    stopped = next(child for child, place in children.items() if place == ("hangs", 2))
    while children.keys() - {stopped}:
        child, status = os.wait()
        case, rank = children.pop(child)
        codes[case][rank] = os.waitstatus_to_exitcode(status)
    os.kill(stopped, signal.SIGKILL)
    os.waitpid(stopped, 0)
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
