"""Ranks that say which cores are their own: bound_ranks.py each|same. Bound to one core each, or to the same one."""

import os
import sys

from steel.distributed.runtime import launcher_rank, start

cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[launcher_rank() if sys.argv[1] == "each" else 0]})
with start(cpu=True).running() as runtime:
    told = runtime.all_gather(runtime.cores)
    if runtime.is_main:
        print("cores", *told)
