"""One line that says what is under way: it lives on a terminal, and is a plain line now and then in a log file."""

import contextlib
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

logger = logging.getLogger("train")

REDRAW_S = 0.2
"""Between two looks of the line on a terminal."""
PLAIN_S = 30.0
"""Between two plain lines at first; later a hundredth of the time passed, so that no log grows long."""

Report = Callable[[int, int], None]
"""Is told how many of how many are done."""


class Part(NamedTuple):
    """A piece of the line."""

    text: str
    rank: int
    """Where the terminal is too narrow, those of the highest rank are left out first."""


def fit_parts(parts: Sequence[Part], width: int) -> str:
    """The parts in their order, as many as fit into `width` characters, the lowest ranks first."""
    kept = list(parts)
    while len(kept) > 1 and len(_join(kept)) > width:
        kept.remove(max(reversed(kept), key=lambda part: part.rank))
    return _join(kept)[:width]


def _join(parts: Sequence[Part]) -> str:
    return " · ".join(part.text for part in parts if part.text)


def format_duration(seconds: float) -> str:
    """`0:07`, `12:34` or `1:23:45`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class AboveTheLine(logging.StreamHandler):
    """Takes a live line away while a message is written, and puts it back below."""

    def emit(self, record: logging.LogRecord) -> None:
        """As the base class."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class LiveLine:
    """The line of a program on stderr; one that is not `shown` says nothing, and times its stages all the same.

    Messages of the program's log stand above it (see `AboveTheLine`). To be closed before the program's last
    words.
    """

    def __init__(self, *, shown: bool) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Seconds of the stages that are over, by kind."""
        self._shown = shown
        self.begun = self._last = time.monotonic()
        self._bar = tqdm(bar_format="{desc}", file=sys.stderr, leave=False) if shown and sys.stderr.isatty() else None

    def __enter__(self) -> "LiveLine":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """As `close`."""
        self.close()

    def close(self) -> None:
        """Leave the terminal's line empty; later calls do nothing."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, parts: Callable[[], Sequence[Part]], *, at_once: bool = False) -> None:
        """Let the line be of `parts`, which are asked for when it is time for a new look.

        Args:
            parts: makes them.
            at_once: whatever the time; on a terminal alone.
        """
        if not self._shown:
            return
        now = time.monotonic()
        if self._bar is not None:
            if at_once or now - self._last >= REDRAW_S:
                self._last = now
                self._bar.set_description_str(fit_parts(parts(), _columns() - 1))
        elif now - self._last >= max(PLAIN_S, (now - self.begun) / 100) and (text := _join(parts())):
            self._last = now
            logger.info("%s", text)

    @contextlib.contextmanager
    def stage(self, kind: str, name: str = "", unit: str = "") -> Iterator[Report]:
        """Show something that takes its time, and how far it is, for as long as the block lasts.

        Args:
            kind: of work; `spent` has the sum of each.
            name: what is done, in words; the kind when empty.
            unit: of what is counted, in the plural; empty shows per cent.
        """
        begun, words = time.monotonic(), name or kind
        first: tuple[float, int] | None = None
        self.show(lambda: [Part(words, 0)], at_once=True)

        def report(done: int, total: int) -> None:
            nonlocal first
            if done and first is None:
                first = time.monotonic(), done
            self.show(lambda: [Part(f"{words}: {_counts(done, total, unit)}", 0), Part(_to_go(done, total, first), 1)])

        try:
            yield report
        finally:
            self.spent[kind] += time.monotonic() - begun
            self.show(lambda: [Part("", 0)], at_once=True)


def _counts(done: int, total: int, unit: str) -> str:
    return f"{done:,} of {total:,} {unit}" if unit else f"{done / max(total, 1):.0%}"


def _to_go(done: int, total: int, first: tuple[float, int] | None) -> str:
    """At the pace since something was done first, when and how much: what is before it is starting. Empty until more
    is."""
    if first is None or done <= first[1]:
        return ""
    return format_duration((time.monotonic() - first[0]) * (total - done) / (done - first[1])) + " to go"


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
