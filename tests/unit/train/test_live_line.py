"""The line that says what is under way."""

import fcntl
import itertools
import logging
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from tests.paths import ROOT
from train import live_line
from train.live_line import LiveLine, Part, fit_parts, format_duration

PARTS = [Part("phase 1/2", 2), Part("loss 0.5", 0), Part("", 3), Part("90 images/s", 1)]

PROGRAM = """
import logging, sys
from train.live_line import AboveTheLine, LiveLine, Part
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[AboveTheLine(sys.stderr)])
with LiveLine(shown=True) as live:
    live.show(lambda: [Part("epoch 1", 1), Part("loss 0.5", 0)], at_once=True)
    logging.getLogger("train").info("validation: 0.75")
    with live.stage("tuning") as report:
        report(1, 4)
print("the end")
"""


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("train.live_line.time.monotonic", lambda: self.now)


def test_what_matters_least_gives_way() -> None:
    assert fit_parts(PARTS, 80) == "phase 1/2 · loss 0.5 · 90 images/s"
    assert fit_parts(PARTS, 33) == "loss 0.5 · 90 images/s"
    assert fit_parts(PARTS, 21) == "loss 0.5"
    assert fit_parts(PARTS, 4) == "loss"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (754, "12:34"), (5025, "1:23:45")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_in_a_log_file_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps of a second for 1.5 hours: each 30 s until 3,000 s have passed, then each hundredth of the time."""
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    live = LiveLine(shown=True)
    for step in range(1, 5401):
        clock.now += 1
        live.show(lambda step=step: [Part(f"step {step}", 0)])
    said = [int(message.removeprefix("step ")) for message in caplog.messages]
    assert said[:3] == [30, 60, 90]
    gaps = [later - earlier for earlier, later in itertools.pairwise(said)]
    assert max(gaps[:99]) == 30 and max(gaps) == 54
    assert len(said) < 170


def test_other_ranks_are_silent_and_count_their_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    live = LiveLine(shown=False)
    for seconds in (40, 50):
        with live.stage("validation", unit="images") as report:
            clock.now += seconds
            report(1, 2)
    assert dict(live.spent) == {"validation": 90.0}
    assert caplog.messages == []


def test_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    live = LiveLine(shown=True)
    with live.stage("validation", "scoring the weights", "images") as report:
        for done in range(1, 5):
            clock.now += 20
            report(500 * done, 2000)
    assert caplog.messages == [
        "scoring the weights: 1,000 of 2,000 images · 0:40 to go",
        "scoring the weights: 2,000 of 2,000 images · 0:00 to go",
    ]


def test_a_stage_that_starts_slowly_is_not_taken_to_go_on_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Processes start and files are opened before the first image is done."""
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    live = LiveLine(shown=True)
    with live.stage("evaluation", unit="images") as report:
        report(0, 24)
        clock.now += 60
        report(1, 24)
        clock.now += 30
        report(11, 24)
    assert caplog.messages == ["evaluation: 1 of 24 images", "evaluation: 11 of 24 images · 0:39 to go"]


def test_the_end_of_a_long_stage_is_no_empty_line_of_a_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it put off the next line that says something."""
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    live = LiveLine(shown=True)
    with live.stage("compiling"):
        clock.now += 40
    live.show(lambda: [Part("step 1", 0)])
    assert caplog.messages == ["step 1"]


def on_a_terminal(code: str, columns: int) -> str:
    """What a program writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                written += part
        except OSError:  # the other end is closed
            pass
    assert process.wait() == 0
    return written.decode()


def screen_of(written: str) -> list[str]:
    """What stands on the screen in the end: a carriage return goes back to the line's start, text covers text."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        for text in line.split("\r"):
            cells[: len(text)] = text
        lines.append("".join(cells).rstrip())
    return lines


def test_the_line_lives_below_what_is_said_and_leaves_nothing_behind() -> None:
    written = on_a_terminal(PROGRAM, columns=80)
    for shown in ("epoch 1 · loss 0.5", "tuning"):
        assert shown in written
    assert [line for line in screen_of(written) if line] == ["validation: 0.75", "the end"]


def test_the_line_never_fills_a_narrow_terminal() -> None:
    written = on_a_terminal(PROGRAM, columns=12)
    assert "loss 0.5" in written and "epoch 1" not in written


def test_the_pace_of_redrawing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs a step nothing: parts are not even made until it is time."""
    clock, made = Clock(monkeypatch), []

    def parts() -> list[Part]:
        made.append(clock.now)
        return PARTS

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with LiveLine(shown=True) as live:
        for _ in range(100):
            clock.now += 0.01
            live.show(parts)
    assert len(made) <= 1.0 / live_line.REDRAW_S + 1
