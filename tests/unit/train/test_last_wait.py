"""What a stop signal does to a rank whose work is done, and which waits for the others."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.file_faults import in_child
from train import crossval, fit


class LastBarrier:
    """A runtime whose ranks are told to stop while they leave together."""

    @contextlib.contextmanager
    def running(self) -> Iterator["LastBarrier"]:
        yield self
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)


@pytest.mark.parametrize(("program", "work"), [(fit, "train_in_folder"), (crossval, "_run")])
def test_a_rank_that_waits_for_the_last_ones_is_not_killed_by_a_stop(
    program, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    monkeypatch.setattr(program, "start", lambda precision: LastBarrier())
    monkeypatch.setattr(program, "share_recipe", lambda arguments, runtime: arguments)
    monkeypatch.setattr(program, work, lambda *given: done.append(1))

    def end_well() -> None:
        assert program.main(["--preset", "smoke", "--data", "shards", "--out", "run"]) == 0 and done

    assert in_child(end_well) == 0
