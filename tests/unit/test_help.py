"""What `--help` of the programs says, and what they say of options that they do not have or cannot take."""

import re
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from data_prep.__main__ import main as shard
from data_prep.index import main as index
from data_prep.pseudo_labels.__main__ import main as pseudo_labels
from data_prep.verify import main as verify
from steel.cli import COMMANDS
from steel.cli import main as steel
from train.arguments import parse_fit
from train.doctor.__main__ import main as doctor
from train.evaluate import main as evaluate
from train.second_round.__main__ import main as second_round

PROGRAMS = (shard, index, verify, evaluate, doctor, pseudo_labels)


def help_of(program: Callable[[Sequence[str]], object], capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The text, on one line."""
    with pytest.raises(SystemExit) as ended:
        program([*words, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.__module__)
def test_a_program_shows_no_default_where_there_is_none(
    program: Callable[[Sequence[str]], object], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(program, capsys)
    assert "(default: " in shown
    assert not re.findall(r"\(default: (?:None|False)\)", shown)


@pytest.mark.parametrize("command", [add.__name__.removeprefix("add_") for add in COMMANDS])
def test_a_command_shows_no_default_where_there_is_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not re.findall(r"\(default: (?:None|False)\)", help_of(steel, capsys, command))


@pytest.mark.parametrize(
    ("command", "option", "default"),
    [
        ("export", "--int8-images N at most so many give ranges", "100"),
        ("export", "--int8-max-loss DICE write nothing if mean or positive Dice falls by more", "0.005"),
        ("explore", "--seed S of that choice", "0"),
        ("serve", "--port PORT 0 takes any that is free", "8000"),
    ],
)
def test_a_command_shows_defaults(command: str, option: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{option} (default: {default})" in help_of(steel, capsys, command)


def test_a_second_round_shows_its_options_and_those_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(second_round, capsys, "--preset", "smoke")
    for option in (
        "--unlabelled DIR",
        "--unsure LOW,HIGH",
        "--processes N",
        "--budget TIME",
        "--phases.0.epochs FLOAT",
    ):
        assert option in shown


def test_texts_of_fields_are_wrapped_as_paragraphs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is ended where the next word has no room, and not where the source ends one."""
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        parse_fit("fit", ["--help"])
    _, said = capsys.readouterr().out.split("--runtime.save-minutes")
    lines = [line.strip("│ ") for line in said.splitlines()[1:3]]
    assert lines == [
        "Minutes between two resumable states, by rank 0's clock; 0 saves none by time. One is put off while the one",
        (
            "before it is still being written. Before each validation and on a stop signal one is saved, too. "
            "A save stalls"
        ),
    ]


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        (steel, ["serve", "model.onnx", "--port", "abc"], "argument --port: 'abc' is no whole number"),
        (steel, ["export", "a", "--onnx", "b", "--int8-folds", "2,x", "0"], "--int8-folds: 'x' is no whole number"),
        (steel, ["convert", "a", "--images", "b", "--to", "pascal", "--out", "c"], "--to: invalid choice: 'pascal'"),
        (steel, ["serve", "model.onnx", "--batch-wait", "soon"], "argument --batch-wait: 'soon' is no number"),
        (steel, ["export", "a", "--onnx", "b", "--int8-max-loss", "nan"], "--int8-max-loss: 'nan' is no number"),
        (steel, ["explore", "a", "--out", "b", "--max-images", "many"], "--max-images: 'many' is no whole number"),
        (steel, ["synth", "a", "--class-share", "0.1,x"], "argument --class-share: 'x' is no number"),
        (
            *(shard, ["--images", "a", "--labels", "b", "--out", "c", "--mask-threshold", "half"]),
            "argument --mask-threshold: 'half' is no number",
        ),
        (
            *(shard, ["--images", "a", "--labels", "b", "--out", "c", "--ignore-value", "white"]),
            "argument --ignore-value: 'white' is neither a whole number nor a colour #rrggbb",
        ),
        (
            shard,
            ["--images", "a", "--labels", "b", "--out", "c", "--fold", "2"],
            "--fold: no such option; the nearest: ",
        ),
        (steel, ["synth", "a", "--num-te", "3"], "--num-te: no such option; the nearest: --num-test"),
        (
            *(shard, ["--images", "a", "--labels", "b", "--out", "c", "--missing_mask", "clean"]),
            "--missing_mask: no such option; the nearest: --missing-mask",
        ),
        (steel, ["synth", "a", "b"], "b: belongs to no option"),
        (
            steel,
            ["convert", "a", "--images", "b", "--to", "coco", "--out", "c", "--labels", "d"],
            "--labels: no such",
        ),
        (steel, ["nonsense"], "invalid choice: 'nonsense'"),
        (steel, ["predict", "model.onnx", "", "--out", "c"], "argument IMAGES: an empty value"),
        (steel, ["ensemble", "a", "", "--out", "c"], "argument FILE: an empty value"),
        (shard, ["--images", "a", "--labels", "b", "--out="], "argument --out: an empty value"),
        (partial(parse_fit, "fit"), ["--data", "", "--out", "run"], "argument --data: an empty value"),
        (shard, ["--images", "a", "--labels", "b", "--out", "c", "--workers", "0"], "--workers: 0 is not at least 1"),
        (shard, ["--images", "a", "--labels", "b", "--out", "c", "--join", "0"], "--join: 0 is not at least 1"),
        (evaluate, [], "required: --checkpoint, --data, --out"),
        (shard, ["--image", "a", "--labels", "b", "--out", "c"], "--image: no such option; the nearest: --images"),
        (shard, ["--images", "a", "--lables=b", "--out", "c"], "--lables=b: no such option; the nearest: --labels"),
        (steel, ["ensemble", "a", "b", "--o", "c"], "--o: no such option; the nearest: --out"),
        (shard, ["--images", "a", "--out", "b", "--"], "required: --labels"),
        (pseudo_labels, ["--unsure", "0.6,0.8"], "argument --unsure: 0.6,0.8: give two probabilities around one half"),
        (pseudo_labels, ["--unsure", "1,2,3"], "'1,2,3' is neither LOW,HIGH nor a width"),
        (second_round, ["--unsure", "1,2,3"], "'1,2,3' is neither LOW,HIGH nor a width"),
        (second_round, ["--data", "a"], "required: --checkpoint, --unlabelled, --out"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    program: Callable[[Sequence[str]], object],
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        program(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("error: ") and line.endswith("; --help lists the options") and message in line
