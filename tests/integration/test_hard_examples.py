"""Hard examples in a run: what the last validation before a phase missed, whatever comes after it."""

import json
import re
from pathlib import Path

import pytest
import torch

from steel.distributed.runtime import start
from tests.numerics.programs.every_stop import attempt
from tests.numerics.quick import quicken
from train import preparation

OPTIONS = (
    "--phases.0.epochs 0.4 --phases.1.epochs 1.4 --phases.1.sampling.hard 0.75 --model.encoder tu-test_resnet "
    "--model.decoder-channels 8 8"
).split()
"""9 training images, in steps of 4: one step of the first phase and 4 of the second, the third and the last of which a
validation follows."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> None:
    torch.set_num_threads(1)
    quicken(monkeypatch)


def loop_state(run: Path) -> dict[str, list[float | None]]:
    return json.loads((max((run / "states").iterdir()) / "state.json").read_text())["loop"]  # type: ignore[no-any-return]


def test_the_log_has_the_shares_and_their_reasons(
    tiny_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "train.fit")
    attempt(start("no"), str(tiny_shards), tmp_path, OPTIONS, None)
    (line,) = [message for message in caplog.messages if "validation missed" in message]
    begin = "phase 2, full: 75% of the samples go to what the last validation missed: "
    assert line.startswith(begin)
    given = re.findall(r"([\w ]+?) (\d+)% \((.*?)\)(?:, |$)", line.removeprefix(begin))
    missed = loop_state(tmp_path)["missed_before"]
    assert [name for name, _, _ in given] == ["clean", *(f"class {k}" for k in range(1, 5))]
    assert sum(int(share) for _, share, _ in given) == 100
    for (name, _, reason), share in zip(given, missed, strict=True):
        assert share is not None  # every class is in each fold
        assert reason == (f"false alarms on {share:.0%}" if name == "clean" else f"positive Dice {1 - share:.2f}")
    assert "up to 75% of the samples for what the last validation" in (tmp_path / "report.txt").read_text()


def test_a_phase_goes_on_by_what_was_missed_before_it(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the validation in its midst, which the next attempt makes before it draws a sample."""
    validations = iter([[0.0, 0.25, 0.5, 0.75, None], [0.5] * 5, [1.0] * 5])
    monkeypatch.setattr("train.engine.validation.missed", lambda outcome: next(validations))
    favour, drawn_by = preparation.favour_missed, []

    def noting(order, missed):  # type: ignore[no-untyped-def]
        drawn_by.append(list(missed))
        return favour(order, missed)

    monkeypatch.setattr(preparation, "favour_missed", noting)
    runtime = start("no")
    attempt(runtime, str(tiny_shards), tmp_path, OPTIONS, stop_after=4)
    assert drawn_by == [[], [0.0, 0.25, 0.5, 0.75, None]]
    attempt(runtime, str(tiny_shards), tmp_path, OPTIONS, stop_after=None)
    assert drawn_by[2:] == [[0.0, 0.25, 0.5, 0.75, None]]
    assert loop_state(tmp_path)["missed"] == [0.5] * 5 and next(validations, None) is None
