"""A cgroup whose processes the kernel kills for memory; needs root."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """The folder of a new cgroup, of either version, that may hold `limit` bytes.

    Raises:
        OSError: this user may not make one here.
    """
    version_1 = ROOT / "memory"
    parent, name = (version_1, "memory.limit_in_bytes") if version_1.is_dir() else (ROOT, "memory.max")
    folder = parent / f"steel-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        (folder / name).write_text(str(limit))
        yield folder
    finally:
        for _ in range(100):  # the kernel lets go of a dead process after a moment
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)
