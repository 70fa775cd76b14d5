"""A task as long as a whole shard, which a worker process can import."""

import time
from pathlib import Path

from steel.stopping import end_if_stopped

TASK_S = 60.0


def work_until_stopped(begun: Path, ended: Path) -> None:
    """Leaves a file when it begins, and another when it has not been left to end by itself."""
    begun.touch()
    end = time.monotonic() + TASK_S
    try:
        while time.monotonic() < end:
            end_if_stopped()
            time.sleep(0.02)
    except BaseException:
        ended.touch()
        raise
