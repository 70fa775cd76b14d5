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
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.engine.measured_pace.SECONDS", 0.0)
    with pytest.raises(
        SharedError, match=r"--budget: 0:00 is too short: the steps alone of 1 pass .* need 1m at the pace"
    ):
        main([*words, "--budget", "0.01s"])
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
    with pytest.raises(SharedError, match="was started with --budget 36s, now --budget 1h"):
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
