"""`--budget` in time: what is measured, what is made of it, and what a run that goes on keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steel.errors import SharedError
from steel.plain import to_dict
from tests.numerics.quick import quicken
from train import fit_to_time
from train.arguments import parse_fit
from train.engine.measured_pace import MeasuredPace
from train.engine.run_folder import RunFolder
from train.fit import main

WORDS = (
    "--preset smoke --model.encoder tu-test_resnet --tracking.tracker none --runtime.workers 0 --runtime.precision no "
    "--runtime.decoded-cache off --validation.tta"
).split()


@pytest.fixture
def words(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> list[str]:
    torch.set_num_threads(1)
    quicken(monkeypatch)
    return [*WORDS, "--data", str(tiny_shards), "--out", str(tmp_path / "run")]


def test_too_little_time_for_the_pace_that_is_measured(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said that it is measured, and of the shortest run why it is as it is, which can then be changed."""
    monkeypatch.setattr("train.engine.measured_pace.SECONDS", 0.0)
    with pytest.raises(
        SharedError, match=r"--budget: 0:00 is too short: 1 pass .* needs about 1m in all .*; give --budget 1m, or"
    ):
        main([*words, "--budget", "0.01s"])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("measuring", "auto: "))]
    assert told[0].startswith("measuring the pace, for --budget 0.01s: micro-batches of each phase and validations")
    (reason,) = told[1:]
    assert reason.startswith("auto: budget: 1 pass in place of 3: 0.67 of crops and 0.33 of full, ")
    assert (RunFolder(tmp_path / "run").status() or {})["state"] == "failed"
    assert not (tmp_path / "run" / "states").exists() or not any((tmp_path / "run" / "states").iterdir())


def test_a_run_takes_what_a_pace_leaves_it_and_goes_on_with_that(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 9 images train in steps of 8; an image takes 1 s, validations nothing. Nine tenths of 36 s hold four steps.
    # 2.6 passes are two steps of crops (15.6 images) and one of whole images (7.8); 2.7 would be three and two.
    pace = MeasuredPace((1.0, 1.0), 0.0, 0.0)
    monkeypatch.setattr(fit_to_time, "measure_pace", lambda *given: pace)
    begun = parse_fit("fit", words).config
    assert main([*words, "--budget", "36s"]) == 0
    folder = RunFolder(tmp_path / "run")
    (folder.states / "000000-00000001").mkdir(parents=True, exist_ok=True)
    kept = folder.begun_config()
    assert kept is not None
    assert [phase["epochs"] for phase in kept["phases"]] == [1.73, 0.87]
    said = kept["reasons"]["budget"]
    assert said.startswith("2.6 passes, for 0:36") and said.endswith("0 s a validation come to 0:24 of it")
    assert f"auto: budget: {said}" in (folder.root / "report.txt").read_text()
    again = parse_fit("fit", [*words, "--budget", "36s"])
    assert to_dict(again.config) == kept and not again.wants_time_fitted(has_begun=True)
    assert parse_fit("fit", words).config == again.config
    with pytest.raises(SharedError, match="is finished, with --budget 36s; choose another --out"):
        main([*words, "--budget", "1h"])
    assert replace(again.config, phases=begun.phases, reasons={}) == begun


def test_the_measurement_leaves_no_trace_in_the_weights(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.engine.measured_pace.SECONDS", 0.0)
    monkeypatch.setattr(fit_to_time, "PASSES", (1.0,))
    assert main([*words, "--budget", "2d"]) == 0
    assert main([*words, "--out", str(tmp_path / "other"), "--budget", "1passes"]) == 0
    measured, other = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "other"))
    assert measured.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in measured.items())
