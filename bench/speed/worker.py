"""A process that measures on demand: `python -m bench.speed.worker MODULE`, in either environment.

A request is a line of JSON on standard input, `{"task": name, "options": {...}}`; the answer is a line of JSON on
standard output, with the task's `result` or an `error`. Whatever else a library prints goes to standard error.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Worker:
    """The other end: starts the process and asks it. Close it, or use it as a context."""

    def __init__(self, python: str | Path, module: str, log: Path) -> None:
        self._log = log.name
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", "bench.speed.worker", module],
                cwd=ROOT,
                env={**os.environ, **QUIET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # so that it can be ended with all that it has started
            )

    def ask(self, task: str, **options: Any) -> Any:
        """The result of a task.

        Raises:
            RuntimeError: it failed; with its last line.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"task": task, "options": options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{task}: the process died; see {self._log}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{task}: {answer['error']}; see {self._log}")
        return answer["result"]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.close(at_once=kind is not None)

    def dismiss(self) -> None:
        """Let the process end when it has answered, without waiting for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self, *, at_once: bool = False) -> None:
        """End the process: when it has answered, or at once with all that it has started."""
        if at_once and self.alive:
            os.killpg(self._process.pid, signal.SIGTERM)  # `torchrun` ends its ranks, which are no group's of ours
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
            return
        self.dismiss()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


QUIET = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    # The store that adds a delay to each request speaks S3 and checks no signature.
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""One thread a process, and no talk."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tasks = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(tasks, request["task"])(**request["options"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
