"""The command line of training programs."""

import re
from dataclasses import replace
from typing import Any

import pytest

from steel.config import DistillConfig, LossConfig, RuntimeConfig, TransformConfig
from steel.errors import InputError, run_program
from steel.loading.augment import TRANSFORMS
from steel.model.losses import LOSS_TERMS
from steel.plain import from_dict, to_dict
from train.arguments import parse_fit
from train.options import option_names
from train.presets import PRESETS

NEEDED = ["--preset", "smoke", "--data", "shards", "--out", "run"]


def test_every_field_can_be_overridden() -> None:
    found = parse_fit(
        "fit", [*NEEDED, "--phases.1.crop", "32", "48", "--optim.ema-decay", "0", "--folds.validation", "2"]
    )
    assert (found.data, found.out, found.resume) == ("shards", "run", "auto")
    assert found.config.phases[1].crop == (32, 48)
    assert found.config.phases[0] == PRESETS["smoke"].phases[0]
    assert found.config.optim.ema_decay == 0
    assert found.config.folds.validation == (2,)
    assert not found.test_folds_given


@pytest.mark.parametrize(("text", "workers"), [("auto", "auto"), ("0", 0), ("12", 12)])
def test_workers_are_auto_or_a_number(text: str, workers: int | str) -> None:
    config = parse_fit("fit", [*NEEDED, "--runtime.workers", text]).config
    assert config.runtime.workers == workers
    assert from_dict(RuntimeConfig, to_dict(config.runtime)) == config.runtime


@pytest.mark.parametrize("option", ["--out", "--distill.teacher", "--init-from", "--model.weights"])
def test_an_empty_value_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what a shell makes of a variable that is not set."""
    with pytest.raises((InputError, SystemExit)) as refused:
        parse_fit("fit", [*NEEDED, option, "", "--optim.ema-decay", "0"])
    said = f"{refused.value}{capsys.readouterr().err}"
    assert f"argument {option}: an empty value" in said


def test_a_run_folder_in_a_store_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It was a folder called `s3:` here."""
    with pytest.raises(SystemExit) as refused:
        parse_fit("fit", ["--preset", "smoke", "--data", "d", "--out", "s3://bucket/run"])
    assert refused.value.code == 2
    assert "argument --out: s3://bucket/run is no folder of this machine" in capsys.readouterr().err
    assert parse_fit("fit", ["--preset", "smoke", "--data", "d", "--out", "file:///runs/first"]).out == "/runs/first"


def test_naming_test_folds_is_noticed() -> None:
    assert parse_fit("fit", [*NEEDED, "--folds.test", "3"]).test_folds_given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nope", "--data", "d", "--out", "o"], "there are auto, severstal"),
        (["--preset", "smoke", "--out", "o"], "--data is missing"),
        (["--preset", "smoke", "--data", "d"], "--out is missing"),
    ],
)
def test_what_is_missing_or_unknown_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_fit("fit", arguments)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("--phases.0.batch-size 7", "phases.0: phase crops: batch-size 7 is no"),
        ("--phases.0.batch-size 0", "phases.0: phase crops: batch-size 0 is no multiple of micro-batch 2 above 0"),
        ("--phases.0.epochs inf", "phases.0: phase crops: epochs inf is not above 0 and at most 1000000"),
        ("--phases.0.epochs nan", "phases.0: phase crops: epochs nan is not above 0 and at most 1000000"),
        ("--phases.0.epochs 1e300", "phases.0: phase crops: epochs 1e+300 is not above 0 and at most 1000000"),
        ("--phases.0.batch-size 4000000", "phases.0: phase crops: batch-size 4000000 is more than 1048576"),
        (
            "--phases.0.crop 100000 100000",
            "phases.0: phase crops: crop 100000x100000 has more than the 1073741824 pixels of the largest image",
        ),
        ("--phases.0.lr inf", "phases.0: phase crops: lr inf is not a number above 0"),
        ("--phases.0.lr-floor -1", "phases.0: phase crops: lr-floor -1 is not a number from 0 on"),
        ("--phases.0.lr-power nan", "phases.0: phase crops: lr-power nan is not a number above 0"),
        ("--seed x", "--seed: invalid literal for int() with base 10: 'x'; --help lists the options"),
        ("--phases.1.sampling.paste 2", "phases.1.sampling.paste: 2.0 is not in [0, 1]; --help lists the options"),
        ("--distill.share 0", "distill.share: 0.0 is not above 0 and at most 1; --help lists the options"),
        ("--phases.0.loss.bce -1", "phases.0.loss.bce: -1.0 is not 0 or a number above it"),
        ("--phases.1.loss.class-weights 1 -2", "phases.1.loss.class-weights: -2.0 is not 0 or a number above it"),
        ("--phases.1.loss.class-weights 0 0", "phases.1.loss.class-weights: (0.0, 0.0) has none above 0; --help lists"),
        ("--optim.ema-decay 2", "optim.ema-decay: 2.0 is not in [0, 1]; --help lists the options"),
        ("--validation.every-epochs 0", "validation.every-epochs: 0 is not above 0 and at most 1000000; --help lists"),
        ("--validation.every-epochs inf", "validation.every-epochs: inf is not above 0 and at most 1000000; --help"),
        (
            "--augment.gamma.p 1 --augment.gamma.strength inf",
            "augment.gamma.strength: inf is not above 0 and at most 100",
        ),
        (
            "--augment.affine.p 1 --augment.affine.strength 1e300",
            "augment.affine.strength: 1e+300 is not above 0 and at",
        ),
        ("--model.mean 5 --model.std 1", "model.mean: (5.0,) is not in [0, 1]; --help lists the options"),
        ("--model.mean 0 nan 0 --model.std 1 1 1", "model.mean: (0.0, nan, 0.0) is not in [0, 1]; --help lists"),
        ("--model.mean 0 0 0 --model.std 1 nan 1", "model.std: (1.0, nan, 1.0) is not a number above 0; --help lists"),
        ("--runtime.max-bad-samples -1", "runtime.max-bad-samples cannot be negative; --help lists the options"),
        ("--runtime.cache-bytes -1", "runtime.cache-bytes must be above 0; --help lists the options"),
        ("--augment.hflip.p 2", "augment.hflip.p: 2.0 is not in [0, 1]; --help lists the options"),
        ("--augment.blur.strength -1", "augment.blur.strength: -1.0 is not above 0 and at most 100; --help lists"),
        (
            "--folds.validation 1",
            "folds.validation and folds.test both have fold 1; take it out of one of them; --help lists",
        ),
        ("--runtime.save-minutes -1", "runtime: save-minutes and save-every cannot be negative; --help lists"),
        ("--seed -1", "seed: -1 is not in [0, 2**63); --help lists the options"),
        ("--phases.0.sampling.hard 0.5", "phases.0.sampling.hard: 0.5, but no validation comes before"),
        ("--phases.0.epochs", "Missing value for argument '--phases.0.epochs'. Expected 1 values; --help lists"),
        (
            "--model.decoder-channels x y",
            "--model.decoder-channels: no type matching {None}|{[INT [INT ...]]} could be",
        ),
        ("--phases.0.sampling.zoom 2 1", "phases.0.sampling.zoom: 2 1 are not two scales from 0.1 to 10, the smaller"),
        ("--phases.0.sampling.zoom 0 1", "phases.0.sampling.zoom: 0 1 are not two scales from 0.1 to 10, the smaller"),
        ("--phases.0.sampling.zoom nan 1", "phases.0.sampling.zoom: nan 1 are not two scales from 0.1 to 10, the"),
        ("--phases.0.loss.tversky-power 0", "phases.0.loss.tversky-power: 0.0 is not above 0 and at most 8"),
        (
            "--augment.brightness-contrast.strength 2",
            "augment.brightness-contrast: a strength of 2 has no effect while augment.brightness-contrast.p is 0; give "
            "--augment.brightness-contrast.p above 0, or leave the strength out; --help lists the options",
        ),
        (
            "--augment.hflip.p 0.4 --augment.hflip.strength 2",
            "augment.hflip.strength: 2 has no effect: it has no strength; leave it out; --help lists the options",
        ),
        (
            "--distill.share 0.9",
            "distill.share: 0.9 has no effect without a teacher; give --distill.teacher, or leave it out",
        ),
        (
            "--phases.0.lr-power 3",
            "phases.0.lr-power: 3 has no effect with the schedule cosine; give --phases.0.schedule polynomial, or "
            "leave it out",
        ),
        (
            "--phases.1.schedule constant --phases.1.lr-floor 0.1",
            "phases.1.lr-floor: 0.1 has no effect with the schedule constant; give --phases.1.schedule cosine or one_",
        ),
        (
            "--optim.average-top-k 1",
            "optim.average-top-k: 1 epoch has no average; give 2 or more, or 0 for none; --help lists the options",
        ),
        ("--phases.0.epoch 3", "--phases.0.epoch: no such option; the nearest: --phases.0.epochs, "),
        ("--phases.0.batch_sise=3", "--phases.0.batch_sise=3: no such option; the nearest: --phases.0.batch-size, "),
        ("--augment.flip.p 0.5", "--augment.flip.p: no such option; the nearest: --augment.vflip.p, --augment.hflip.p"),
        ("--phases.1.loss.tverski 1", "--phases.1.loss.tverski: no such option; the nearest: --phases.1.loss.tversky"),
        ("--folds.everything 1", "--folds.everything: no such option; the nearest: --folds.validation, --folds.test;"),
        ("--no-such-thing 1", "--no-such-thing: no such option; --help lists the options"),
        ("--bugdet 1m", "--bugdet: no such option; the nearest: --budget; --help"),
        ("--datta d", "--datta: no such option; the nearest: --data; --help"),
        ("--proceses 2", "--proceses: no such option; the nearest: --processes; --help"),
        ("stray", "stray: belongs to no option; --help lists the options"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(wrong: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"--processes N": "how many ranks"}
    assert run_program(lambda: parse_fit("fit", [*NEEDED, *wrong.split()], more) and None) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {line}")


def test_what_a_preset_says_may_lose_its_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked for it; the same value as the preset's asks for nothing either."""
    preset = replace(
        PRESETS["smoke"],
        augment={"hflip": TransformConfig(0.5, 2.0)},
        distill=DistillConfig(share=0.7),
        phases=tuple(replace(phase, schedule="polynomial", lr_power=2.0) for phase in PRESETS["smoke"].phases),
    )
    monkeypatch.setitem(PRESETS, "smoke", preset)
    options = "--augment.hflip.p 0 --augment.hflip.strength 2 --distill.share 0.7 --phases.1.schedule cosine"
    config = parse_fit("fit", [*NEEDED, *options.split()]).config
    assert config.augment == {} and config.distill.share == 0.7 and config.phases[1].lr_power == 2.0


def test_every_option_is_known_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_fit("fit", [*NEEDED, "--help"])
    listed = set(re.findall(r"(--[a-z0-9.-]+\.[a-z0-9.-]+)", capsys.readouterr().out))
    known = set(option_names(PRESETS["smoke"]))
    negated = {name for name in listed if name.rpartition(".")[2].startswith("no-")}
    assert listed - negated == {name for name in known if "." in name}


def test_help_says_whose_defaults_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Of `auto` there are none before the shards are named."""
    for words, is_of_other in (["--help"], True), (["--preset", "smoke", "--help"], False):
        with pytest.raises(SystemExit):
            parse_fit("fit", words)
        said = " ".join(capsys.readouterr().out.split())
        above, _, box = said.partition(" options ─")
        assert ("those of the preset severstal, as auto's own follow from the shards" in above) is is_of_other
        assert ("Fields of the preset smoke, with its values" in above) is not is_of_other
        assert "--preset" not in box  # whose default is auto


@pytest.mark.parametrize("name", PRESETS)
def test_presets_carry_their_own_name(name: str) -> None:
    assert PRESETS[name].preset == name


def test_crops_at_two_scales_are_an_option_of_a_phase() -> None:
    phases = parse_fit("fit", [*NEEDED, "--phases.0.sampling.zoom", "0.67", "1.5"]).config.phases
    assert [phase.sampling.zoom for phase in phases] == [(0.67, 1.5), (1.0, 1.0)]


def test_loss_terms_are_options_by_name() -> None:
    options = ["--phases.1.loss.tversky", "0.5", "--phases.1.loss.lovasz", "0", "--phases.1.loss.tversky-alpha", "0.7"]
    loss = parse_fit("fit", [*NEEDED, *options]).config.phases[1].loss
    assert loss == LossConfig({"bce": 0.5, "tversky": 0.5, "classification": 0.02}, absent=0.0, tversky_alpha=0.7)
    assert to_dict(loss)["tversky"] == 0.5  # in config.json by the option's name


def test_help_says_what_each_loss_term_and_each_transform_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_fit("fit", ["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, term in LOSS_TERMS.items():
        assert f"--phases.1.loss.{name.replace('_', '-')} FLOAT {term.meaning} (default" in shown
    for name, transform in TRANSFORMS.items():
        assert f"augment.{name.replace('_', '-')} options" in shown and transform.meaning in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--phases.0.loss.bce", "0", "--phases.0.loss.dice", "0"],
            "phase crops: loss: give at least one",
        ),
        (["--model.heads", "boundary"], "boundary learns nothing in any phase"),
        (
            ["--phases.0.loss.tversky-power", "0.75"],
            r"phase crops: loss\.tversky-power 0\.75 has no effect while loss\.tversky is 0; give loss\.tversky a "
            r"weight above 0, or leave it at 1",
        ),
        (["--phases.1.loss.tversky-alpha", "0.5"], r"phase full: loss\.tversky-alpha 0\.5 has no effect"),
        (
            ["--phases.0.loss.focal-gamma", "1"],
            r"phase crops: loss\.focal-gamma 1 has no effect while loss\.focal is 0",
        ),
        (["--phases.0.loss.boundary-width", "5"], r"loss\.boundary-width 5 has no effect while loss\.boundary is 0"),
    ],
)
def test_losses_that_teach_nothing_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_fit("fit", [*NEEDED, *options])


def test_an_equal_average_beside_a_moving_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"^optim\.swa: a run has one average .* optim\.ema-decay 0\.97 asks"):
        parse_fit("fit", [*NEEDED, "--optim.swa"])
    assert parse_fit("fit", [*NEEDED, "--optim.swa", "--optim.ema-decay", "0"]).config.optim.swa


def test_a_view_named_twice_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(InputError, match=r"validation\.tta: hflip is given twice; give each view once"):
        parse_fit("fit", [*NEEDED, "--validation.tta", "hflip", "vflip", "hflip"])


@pytest.mark.parametrize("weights", ["encoder.pth", "https://example.org/encoder.safetensors"])
def test_first_weights_have_one_source(weights: str) -> None:
    start = [*NEEDED, "--init-from", "model.safetensors", "--model.weights"]
    with pytest.raises(InputError, match=r"--init-from and --model\.weights both say what to start from"):
        parse_fit("fit", [*start, weights])
    assert parse_fit("fit", [*start, "none"]).init_from == "model.safetensors"


def test_hard_examples_before_any_validation_are_refused() -> None:
    with pytest.raises(InputError, match=r"phases\.0\.sampling\.hard: 0\.5, but no validation comes before the first"):
        parse_fit("fit", [*NEEDED, "--phases.0.sampling.hard", "0.5"])
    assert parse_fit("fit", [*NEEDED, "--phases.1.sampling.hard", "0.5"]).config.phases[1].sampling.hard == 0.5


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--optim.layer-decay", "0", r"optim\.layer-decay: 0\.0 is not in \(0, 1\]"),
        ("--optim.layer-decay", "1.01", r"optim\.layer-decay: 1\.01 is not in \(0, 1\]"),
        ("--phases.1.loss.boundary-width", "0", r"phases\.1\.loss\.boundary-width: 0 is not in 1 to 1024"),
        ("--phases.1.loss.boundary-width", "1025", r"phases\.1\.loss\.boundary-width: 1025 is not in 1 to 1024"),
        ("--optim.layer-decay", "nan", r"optim\.layer-decay: nan is not in \(0, 1\]"),
        ("--optim.encoder-lr-scale", "-1", r"optim\.encoder-lr-scale: -1\.0 is not 0 or a number above it"),
        ("--optim.freeze-encoder-epochs", "inf", r"optim\.freeze-encoder-epochs: inf is not 0 or a number above it"),
        ("--optim.weight-decay", "nan", r"optim\.weight-decay: nan is not 0 or a number above it"),
        ("--optim.average-top-k", "-1", r"optim\.average-top-k: -1 is not 0 or a number above it"),
        ("--optim.nonfinite-limit", "0", r"optim\.nonfinite-limit: 0 is not above 0"),
        ("--validation.patience", "-1", r"validation\.patience: -1 is not 0 or a number above it"),
        ("--tracking.log-every", "0", r"tracking\.log-every: 0 is not above 0"),
        ("--tracking.num-images", "-1", r"tracking\.num-images: -1 is not 0 or a number above it"),
        ("--model.deep-supervision", "-1", r"model\.deep-supervision: -1 is negative"),
        ("--phases.1.sampling.hard", "1.5", r"phases\.1\.sampling\.hard: 1\.5 is not in \[0, 1\]"),
        ("--phases.1.sampling.hard", "nan", r"phases\.1\.sampling\.hard: nan is not in \[0, 1\]"),
        ("--phases.0.loss.boundary", "nan", r"phases\.0\.loss\.boundary: nan is not 0 or a number above it"),
        ("--phases.0.loss.boundary", "inf", r"phases\.0\.loss\.boundary: inf is not 0 or a number above it"),
        ("--phases.0.loss.focal-gamma", "-3", r"phases\.0\.loss\.focal-gamma: -3\.0 is not 0 or a number above it"),
        ("--phases.0.loss.focal-gamma", "nan", r"phases\.0\.loss\.focal-gamma: nan is not 0 or a number above it"),
        ("--phases.0.loss.tversky-alpha", "5", r"phases\.0\.loss\.tversky-alpha: 5\.0 is not in \[0, 1\]"),
        ("--phases.0.loss.absent", "inf", r"phases\.0\.loss\.absent: inf is not 0 or a number above it"),
    ],
)
def test_a_value_out_of_its_range_is_refused_in_a_line(option: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}; --help lists the options$"):
        parse_fit("fit", [*NEEDED, option, value])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"blurr": TransformConfig(0.1)}}, r"augment\.blurr: unknown; there are hflip"),
        ({"loss": LossConfig({"bce": 1.0, "dize": 0.5})}, r"phase crops: loss\.dize is unknown"),
        ({"schedule": "cosin"}, "phase crops: schedule 'cosin' is unknown"),
    ],
)
def test_what_a_preset_misspells_is_not_lost(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = PRESETS["smoke"]
    if "augment" in changes:
        preset = replace(preset, **changes)
    else:
        preset = replace(preset, phases=(replace(preset.phases[0], **changes), preset.phases[1]))
    monkeypatch.setitem(PRESETS, "smoke", preset)
    with pytest.raises(InputError, match=message):
        parse_fit("fit", NEEDED)


def test_a_schedule_is_chosen_by_name() -> None:
    config = parse_fit("fit", [*NEEDED, "--phases.1.schedule", "one_cycle"]).config
    assert [phase.schedule for phase in config.phases] == ["cosine", "one_cycle"]
    with pytest.raises(InputError, match="'cosine', 'constant', 'one_cycle', 'polynomial'"):
        parse_fit("fit", [*NEEDED, "--phases.1.schedule", "cosin"])


def test_every_transform_is_an_option_by_name() -> None:
    for name, transform in TRANSFORMS.items():
        option = f"--augment.{name.replace('_', '-')}"
        options = [f"{option}.p", "0.25", *([f"{option}.strength", "2"] if transform.has_strength else [])]
        augment = parse_fit("fit", [*NEEDED, *options]).config.augment
        others = {"hflip": TransformConfig(0.5), "vflip": TransformConfig(0.5)}
        assert augment == {**others, name: TransformConfig(0.25, 2.0 if transform.has_strength else 1.0)}
    assert to_dict(parse_fit("fit", [*NEEDED, "--augment.vflip.p", "0"]).config)["augment"] == {
        "hflip": {"p": 0.5, "strength": 1.0}
    }
