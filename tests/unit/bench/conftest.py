"""For the tests of programs that measure."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def sigterm_as_before() -> Iterator[None]:
    """`bench.made_by.begin` sets how the process ends; the tests' own process keeps its way."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
