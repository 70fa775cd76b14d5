"""The options of the programs that measure: what `--help` says of them, and what is said of values that are none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import budget, large_image, predictions, serve, startup, tta
from bench.end_to_end import __main__ as end_to_end
from bench.quality import cli as quality
from bench.quality.questions import QUESTIONS, WEIGHTS, Question
from bench.scaling import __main__ as scaling
from bench.speed import __main__ as speed
from bench.train_step import __main__ as train_step
from steel.errors import run_program


@pytest.mark.parametrize(
    ("program", "defaults"),
    [
        (budget.main, ["3m", "1 2"]),
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


@pytest.mark.parametrize(
    ("program", "known"),
    [(speed.main, ["raw-cold", "rle-encode", "prepare"]), (predictions.main, ["predict-even", "files", "forward"])],
    ids=lambda one: one.__module__ if callable(one) else None,
)
def test_rows_that_there_are_not_are_refused_with_those_that_there_are(
    program: Callable[[], object],
    known: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before data sets are made, a table of nothing would be written over that of a whole run."""
    words = ["--rows", known[0], "no-such-row", "--work", str(tmp_path), "--out", str(tmp_path / "table.md")]
    monkeypatch.setattr("sys.argv", ["program", *words])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --rows: invalid choice: 'no-such-row' (choose from ")
    assert all(name in line for name in known)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        (budget.main, ["--budgets", "2m", "8passes"], "--budgets 8passes: give a time, as 2m"),
        (budget.main, ["--budgets", "soon"], "--budget soon: give a time, as 90s, "),
        (budget.main, ["--processes", "0"], "argument --processes: 0 is not at least 1"),
        (large_image.main, ["--size", "20000"], "argument --size: '20000': give height and width in pixels"),
        (large_image.main, ["--size", "0x4096"], "argument --size: '0x4096': give height and width in pixels"),
        (large_image.main, ["--repeats", "0"], "argument --repeats: 0 is not at least 1"),
        (large_image.main, ["--size", "64x64", "--encoder", "resnet"], "model.encoder: 'resnet' is unknown"),
        (serve.main, ["--size", "256x1600x3"], "argument --size: '256x1600x3': give height and width in pixels"),
        (serve.main, ["--seconds", "a"], "argument --seconds: 'a' is no whole number"),
        (serve.main, ["--batch-wait", "-1"], "argument --batch-wait: -1 is not from 0 to 10000"),
        (serve.main, ["--device", "tpu"], "device 'tpu' is not to be had here"),
        (serve.main, ["--size", "64x64", "--encoder", "resnet"], "model.encoder: 'resnet' is unknown"),
        (serve.main, ["--out", "."], ".: a folder; give the name of the file to write"),
        (startup.main, ["--repeats", "none"], "argument --repeats: 'none' is no whole number"),
        (scaling.main, ["--sizes", "0"], "argument --sizes: 0 is not at least 1"),
        (scaling.main, ["--steps", "no-such.json"], "--steps: no-such.json is no file; make it with python -m bench."),
        (train_step.main, ["--batch", "0"], "argument --batch: 0 is not at least 1"),
        (train_step.main, ["--batch", "3", "--micro-batch", "2"], "--micro-batch 2: a --batch of 3 is no whole number"),
        (train_step.main, ["--encoders", "resnet18", "resnet"], "model.encoder: 'resnet' is unknown"),
        (train_step.main, ["--architectures", "UNet"], "model.architecture: 'UNet' is unknown"),
        (tta.main, ["--sizes", "1x1"], "--sizes: 1x1: give 32 pixels a side at least"),
    ],
)
def test_a_value_that_is_none_is_one_line_and_exit_code_2(
    program: Callable[[], None],
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is measured, and with no table written."""
    out = [] if "--out" in words else ["--out", str(tmp_path / "table.md")]
    monkeypatch.setattr("sys.argv", ["program", *words, *out])
    try:
        code = run_program(program)
    except SystemExit as ended:  # argparse's
        code = ended.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and line.startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--variants", "--once"])
def test_a_variant_that_there_is_not_is_told_of_the_option_that_names_it(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").touch()
    words = ["auto-choice", "--source", str(tmp_path), "--weights", str(tmp_path / "weights"), option, "no-such"]
    monkeypatch.setattr("sys.argv", ["program", *words])
    with pytest.raises(SystemExit) as ended:
        quality.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {option}: there is no 'no-such'; there are as the preset for ")


@pytest.mark.parametrize(("what", "question"), QUESTIONS.items(), ids=QUESTIONS)
def test_a_question_says_what_it_cannot_be_answered_without(
    what: str,
    question: Question,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One option after another, and then variants of others than it has; no folder is made before."""
    weights, words = tmp_path / "weights", [what, "--work", str(tmp_path / "work")]
    weights.touch()

    def said(*more: str) -> str:
        monkeypatch.setattr("sys.argv", ["program", *words, *more])
        with pytest.raises(SystemExit) as ended:
            quality.main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    for need in question.needs:
        assert said().startswith(f"error: {what} needs --{need}, ")
        words += [f"--{need}", str(weights)]
    if question.needs[:1] == (WEIGHTS,):
        assert said("--weights", "nowhere").startswith("error: --weights nowhere: there is no such file")
    unknown = "--variants: there is no 'no-such'; there are " if question.variants else f"{what} takes no --variants"
    assert said("--variants", "no-such").startswith(f"error: {unknown}")
    unknown = "--once: there is no 'no-such'; there are " if question.takes_once else f"{what} takes no --once"
    assert said("--once", "no-such").startswith(f"error: {unknown}")
    if not question.seeds:
        assert said("--seeds", "7").startswith(f"error: {what} takes no --seeds")
    assert question.goes_on_in is None or question.goes_on_in in QUESTIONS
    assert not (tmp_path / "work").exists()
