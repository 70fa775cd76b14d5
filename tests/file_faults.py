"""Breaks file operations one at a time: the k-th fails, or the process dies at it."""

import builtins
import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

OPERATIONS = ("mkdir", "rename", "replace", "open", "fsync", "unlink", "rmdir", "scandir", "listdir", "stat", "lstat")


class Breaker:
    """Counts the operations on files under `root` and calls `fault` at the one of number `at` (from 0).

    Tensors are written by compiled code in one call; that call counts as two operations, before it and in its middle,
    where half of the file is there.
    """

    def __init__(self, root: Path, at: int | None, fault: Callable[[], None]) -> None:
        self.root, self.at, self.fault = str(root), at, fault
        self.seen: list[str] = []

    def pass_by(self, name: str, path: object) -> None:
        where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)  # type: ignore[call-overload]
        if isinstance(where, str) and where.startswith(self.root):
            self.seen.append(f"{name} {where.removeprefix(self.root)}")
            if len(self.seen) - 1 == self.at:
                self.fault()

    @contextlib.contextmanager
    def installed(self) -> Iterator["Breaker"]:
        """Watch inside the block."""
        import train.engine.state

        former = {name: getattr(os, name) for name in OPERATIONS}
        former_open, former_save = builtins.open, train.engine.state.save_file

        def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
                if isinstance(path, str | os.PathLike | int) and kwargs.get("dir_fd") is None:
                    self.pass_by(name, path)
                return real(path, *args, **kwargs)

            return call

        def save_file(tensors: Any, path: Any) -> None:
            self.pass_by("save_file", path)
            former_save(tensors, path)
            whole = Path(path).stat().st_size
            os.truncate(path, whole // 2)
            self.pass_by("save_file, half way", path)
            former_save(tensors, path)

        try:
            for name, real in former.items():
                setattr(os, name, wrapped(name, real))
            builtins.open = io.open = wrapped("open", former_open)  # type: ignore[assignment]
            train.engine.state.save_file = save_file
            yield self
        finally:
            for name, real in former.items():
                setattr(os, name, real)
            builtins.open = io.open = former_open  # type: ignore[assignment]
            train.engine.state.save_file = former_save


def fail_with(number: int) -> Callable[[], None]:
    """A fault that is an error of the operating system."""

    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


def fail_compiled() -> None:
    """A full disk as safetensors reports it."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def die() -> None:
    """A kill -9 at this very operation."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(task: Callable[[], object]) -> int:
    """Run `task` in a forked child; how it ended, as a negative signal or an exit code (1 for an exception)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            task()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
