"""The options of the programs that measure: what `--help` says of them, and what is said of values that are none."""

from collections.abc import Callable

import pytest

from bench import tta
from bench.end_to_end import __main__ as end_to_end
from bench.scaling import __main__ as scaling
from bench.train_step import __main__ as train_step


@pytest.mark.parametrize(
    ("program", "defaults"),
    [
        (tta.main, ["128x128 256x256 256x512 256x1600"]),
        (train_step.main, ["192x192", "made-up loader ddp ranks", "Unet", "resnet18"]),
        (end_to_end.main, ["256x1600", "on off"]),
        (scaling.main, ["100000 1000000 10000000"]),
    ],
    ids=lambda one: one.__module__ if callable(one) else None,
)
def test_defaults_are_shown_as_they_would_be_typed(
    program: Callable[[], object],
    defaults: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # so that no line is ended at a hyphen
    monkeypatch.setattr("sys.argv", ["program", "--help"])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"(default: {default})" in shown for default in defaults)
    assert "default: (" not in shown and "default: [" not in shown
