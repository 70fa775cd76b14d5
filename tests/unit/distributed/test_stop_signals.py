"""Stop signals become a flag; a second one ends the process."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from steel.distributed.signals import StopSignals
from tests.file_faults import in_child


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("number", StopSignals.SIGNALS)
def test_a_signal_is_a_flag_and_handlers_come_back(number: signal.Signals) -> None:
    before, threads = signal.getsignal(number), {*threading.enumerate()}
    with StopSignals().installed() as signals:
        assert not signals.received
        os.kill(os.getpid(), number)
        wait_for(lambda: signals.received)
        assert signals.name == number.name
    assert signal.getsignal(number) == before and threads.issuperset(threading.enumerate())  # others may have ended


def test_the_same_stop_told_twice_is_one() -> None:
    """A scheduler tells every process, and the launcher among them passes it on."""
    with StopSignals().installed() as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        wait_for(lambda: signals.received)
        time.sleep(0.05)
    assert signals.name == "SIGTERM"


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StopSignals, "SAME_S", 0.05)

    def stubborn() -> None:
        with StopSignals().installed() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: signals.received)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)  # as in a collective that never ends

    begun = time.monotonic()
    assert in_child(stubborn) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 10
