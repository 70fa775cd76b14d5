"""Runs training programs one after another, each in two processes of one gloo group:

    python tests/extension/two_ranks.py JOBS.json

Each job of the list has `program`, `options`, `variables` of the environment and `output`, the file for what it prints;
JOBS.codes.json gets the exit codes. Forked, not launched one by one: each process would spend seconds on imports.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from steel.errors import run_program

WORLD = 2


def run_rank(job: dict[str, Any], rank: int) -> int:
    """One process's part in a job; returns its exit code."""
    file = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "localhost"} | job["variables"]
    store = f"file://{job['output']}.store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    return run_program(lambda: importlib.import_module(job["program"]).main(job["options"]))


def run_job(job: dict[str, Any]) -> int:
    """Start both processes and wait for them; the larger exit code."""
    children = []
    for rank in range(WORLD):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run_rank(job, rank)
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def main(path: str) -> None:
    """Run all jobs of the list."""
    sys.path.remove(str(Path(__file__).parent))  # else the extension's module could be imported without being named
    jobs = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    for program in {job["program"] for job in jobs}:
        importlib.import_module(program)
    Path(path).with_suffix(".codes.json").write_text(json.dumps([run_job(job) for job in jobs]))


if __name__ == "__main__":
    main(sys.argv[1])
