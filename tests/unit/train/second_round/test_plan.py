"""What a second round comes to, and what is refused before any work is done."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steel.checkpoint import read_header, save_checkpoint, stack_members
from steel.config import Config, ModelConfig
from steel.errors import InputError, run_program
from steel.plain import to_dict
from steel.shards.format import Manifest
from steel.shards.selection import PSEUDO_LABELS
from tests.random_members import make_member
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.presets import SMOKE
from train.second_round.__main__ import build_parser, main, verdict
from train.second_round.plan import Round, plan_round, recipe_words
from train.second_round.record import Record

FOLDS = {"train": [2, 3], "tuning": [0], "test": [1]}
NETWORK = ModelConfig(encoder="tu-test_resnet", decoder_channels=(8, 8), weights="none", heads=())
FIRST: Config = replace(SMOKE, model=NETWORK)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images in four folds."""
    images, masks = [steel_image(n) for n in range(8)], [defect_mask(n // 4, num_classes=2) for n in range(8)]
    return make_shards(tmp_path_factory.mktemp("shards") / "shards", images, masks, num_classes=2, folds=4)


def save(
    path: Path, shards: Path, folds: Mapping[str, Sequence[int]] = FOLDS, provenance: Mapping[str, Any] | None = None
) -> str:
    """A checkpoint as a training on the shards leaves one."""
    told = {"data_digest": Manifest.load(str(shards)).digest, "config": FIRST.recipe(), **(provenance or {})}
    save_checkpoint(path, make_member(1, folds={role: list(of) for role, of in folds.items()}, provenance=told))
    return str(path)


def plan(checkpoint: str, shards: Path, out: Path, *words: str) -> Round:
    given = ["--checkpoint", checkpoint, "--data", str(shards), "--unlabelled", "line", "--out", str(out), *words]
    return plan_round(*build_parser().parse_known_args(given))


def test_the_recipe_and_the_folds_are_those_of_the_first_training(shards: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "model.safetensors", shards)
    given = ("--tta", "hflip", "--groups", "c.csv", "--runtime.workers", "0", "--cpu")
    this = plan(checkpoint, shards, tmp_path / "out", *given)
    assert (this.config.preset, this.config.model) == ("smoke", NETWORK)
    assert (this.config.folds.validation, this.config.folds.test) == ((0,), (1,))
    assert this.training[-5:] == ["--data", f"{tmp_path}/out/shards", "--out", f"{tmp_path}/out/run", "--cpu"]
    assert this.labelling == [
        *("--checkpoint", checkpoint, "--data", str(shards), "--unlabelled", "line", "--tiff-pages", "refuse"),
        *("--groups", "c.csv", "--unsure", "0.2,0.8", "--threads", "4", "--held-out", "0", "1"),
        *("--tta", "hflip", "--precision", "auto", "--device", "cpu"),
        *("--out", f"{tmp_path}/out/shards"),
    ]
    assert this.evaluation("second") == [
        *("--checkpoint", f"{tmp_path}/out/run/model.safetensors", "--data", f"{tmp_path}/out/shards"),
        *("--folds", "1", "--workers", "0", "--tta", "hflip", "--precision", "auto"),
        *("--out", f"{tmp_path}/out/test/second"),
    ]
    assert not (tmp_path / "out").exists()


def test_what_is_given_goes_before_what_the_first_training_had(shards: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "model.safetensors", shards)
    config = plan(checkpoint, shards, tmp_path / "out", "--model.decoder_channels", "16", "8", "--seed", "5").config
    assert config.model == replace(NETWORK, decoder_channels=(16, 8)) and config.seed == 5
    config = plan(checkpoint, shards, tmp_path / "out", "--preset", "severstal", "--folds.validation", "0", "3").config
    assert (config.preset, config.model.encoder, config.folds.validation) == ("severstal", "resnet34", (0, 3))


def test_a_checkpoint_that_does_not_tell_its_recipe_takes_none(shards: Path, tmp_path: Path) -> None:
    members = [make_member(seed, provenance={"config": FIRST.recipe()}) for seed in (1, 2)]
    save_checkpoint(tmp_path / "both.safetensors", stack_members(members))
    words = recipe_words(read_header(tmp_path / "both.safetensors"), {"--model.heads"})
    assert words[:4] == ("--preset", "smoke", "--model.architecture", "Unet") and "--model.heads" not in words
    for config in (None, {}, {"preset": "mine", "model": {}}, FIRST.recipe() | {"preset": "mine"}, {"preset": 1}):
        assert recipe_words({"provenance": {"config": config}}, set()) == ()


@pytest.mark.parametrize(
    ("folds", "provenance", "words", "message"),
    [
        (
            {"train": [1, 2, 3], "tuning": [0], "test": []},
            {},
            (),
            r"--folds.test: .* was trained on folds 1 2 3 and tuned on 0 of ",
        ),
        ({"train": [2, 3], "tuning": [0], "test": [7]}, {}, (), "kept none for a test: nothing is left to judge by; "),
        (FOLDS, {"data_digest": "d"}, (), "was trained on other shards than .*, so that it does not tell which folds"),
        (FOLDS, {}, ("--folds.test", "1", "3"), "--checkpoint .*: was trained on fold 3, which is to judge"),
        (FOLDS, {}, ("--folds.test=0", "--folds.validation=1"), "was tuned on fold 0, which is to judge"),
        (FOLDS | {"tuning": [1]}, {}, (), "was tuned on fold 1, which is to judge; name folds that it has not seen"),
        (FOLDS, {}, ("--folds.validation", "2"), "the first training held out fold 0, which would now be trained on"),
        (FOLDS, {"data_digest": "d"}, ("--folds.test", "7"), "--folds.test 7: test folds: fold 7 is not in the shards"),
        (FOLDS, {"data_digest": "d"}, ("--folds.test",), "no fold is left; the shards have folds 0, 1, 2, 3"),
        (FOLDS, {}, ("--folds.validation", "1"), r"folds\.validation and folds\.test both have fold 1; take"),
        (FOLDS, {}, ("--phases.0.epoch", "1"), "--phases.0.epoch: no such option; the nearest: --phases.0.epochs"),
        (FOLDS, {}, ("--processes", "0"), "--processes 0: at least 1"),
        (FOLDS, {}, ("--out", "memory://out"), "--out memory://out: give a folder of this machine"),
    ],
)
def test_what_cannot_be_judged_or_is_mistaken_is_one_line(
    shards: Path,
    tmp_path: Path,
    folds: Mapping[str, Sequence[int]],
    provenance: Mapping[str, Any],
    words: Sequence[str],
    message: str,
) -> None:
    checkpoint = save(tmp_path / "model.safetensors", shards, folds, provenance)
    with pytest.raises(InputError, match=message) as error:
        plan(checkpoint, shards, tmp_path / "out", *words)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_that_the_checkpoint_does_not_know_want_a_test_fold_by_name(shards: Path, tmp_path: Path) -> None:
    """Whoever names it says that it was not seen; a member of an ensemble that has seen it is noticed still."""
    checkpoint = save(tmp_path / "model.safetensors", shards, provenance={"data_digest": "d"})
    assert plan(checkpoint, shards, tmp_path / "out", "--folds.test", "2").config.folds.test == (2,)
    member = {"name": "a", "folds": FOLDS, "provenance": {"data_digest": Manifest.load(str(shards)).digest}}
    checkpoint = save(tmp_path / "two.safetensors", shards, provenance={"data_digest": None, "members": [member]})
    with pytest.raises(InputError, match="was trained on fold 2, which is to judge"):
        plan(checkpoint, shards, tmp_path / "out", "--folds.test", "2")


@pytest.mark.parametrize("option", ["--init-from", "--distill.teacher", "--model.weights"])
def test_what_the_second_training_learns_from_may_not_have_seen_the_test_either(
    shards: Path, tmp_path: Path, option: str
) -> None:
    checkpoint = save(tmp_path / "model.safetensors", shards)
    other = save(tmp_path / "other.safetensors", shards, {"train": [1], "tuning": [0], "test": []})
    assert plan(checkpoint, shards, tmp_path / "out", option, checkpoint)
    with pytest.raises(InputError, match=f"{option} .*other.safetensors: was trained on fold 1, which is to judge"):
        plan(checkpoint, shards, tmp_path / "out", option, other)


def test_weights_that_are_not_to_be_had_are_the_trainings_to_tell(shards: Path, tmp_path: Path) -> None:
    """A training that has begun does not read them again, wherever they are now."""
    checkpoint = save(tmp_path / "model.safetensors", shards)
    assert plan(checkpoint, shards, tmp_path / "out", "--model.weights", str(tmp_path / "gone.safetensors"))


def test_a_start_of_its_own_takes_the_place_of_the_first_trainings_weights(shards: Path, tmp_path: Path) -> None:
    first = {"preset": "smoke", "model": to_dict(ModelConfig(weights="/gone/encoder.pth"))}
    checkpoint = save(tmp_path / "model.safetensors", shards, provenance={"config": first})
    assert plan(checkpoint, shards, tmp_path / "out").config.model.weights == "/gone/encoder.pth"
    assert plan(checkpoint, shards, tmp_path / "out", "--init-from", checkpoint).config.model.weights == "none"


def test_labels_of_a_checkpoint_judge_nothing(shards: Path, tmp_path: Path) -> None:
    """A third round knows the folds of the first, and those that were labelled for the second."""
    checkpoint, manifest = save(tmp_path / "model.safetensors", shards), Manifest.load(str(shards))
    third = Path(shutil.copytree(shards, tmp_path / "third"))
    rounds = [{"fold": 3, "data_digest": manifest.digest}]
    (third / "manifest.json").write_text(replace(manifest, options={PSEUDO_LABELS: rounds}).to_json())
    assert plan(checkpoint, third, tmp_path / "out").config.folds.test == (1,)
    foreign = save(tmp_path / "foreign.safetensors", shards, provenance={"data_digest": "d"})
    with pytest.raises(InputError, match=r"--folds.test 1 3: a checkpoint has labelled fold 3; judge by what people"):
        plan(foreign, third, tmp_path / "out", "--folds.test", "1", "3")
    with pytest.raises(InputError, match=r"--folds.validation 0 3: a checkpoint has labelled fold 3; judge by what pe"):
        plan(foreign, third, tmp_path / "out", "--folds.validation", "0", "3", "--folds.test", "1")


def test_a_checkpoint_that_labelled_an_earlier_fold_may_not_have_seen_the_test_either(
    shards: Path, tmp_path: Path
) -> None:
    """Of shards of before it was kept nothing is known; damage is told of."""
    checkpoint, manifest = save(tmp_path / "model.safetensors", shards), Manifest.load(str(shards))
    third = Path(shutil.copytree(shards, tmp_path / "third"))

    def test_on_fold_1(**said: object) -> Round:
        rounds = [{"fold": 3, "data_digest": manifest.digest, **said}]
        (third / "manifest.json").write_text(replace(manifest, options={PSEUDO_LABELS: rounds}).to_json())
        return plan(checkpoint, third, tmp_path / "out")

    for said in ({}, {"seen": []}, {"seen": [{"digest": manifest.digest, "train": [2], "tuning": [0]}]}):
        assert test_on_fold_1(**said).config.folds.test == (1,)
    for train, tuning, did in (([1, 2], [], "trained"), ([2], [1], "tuned")):
        with pytest.raises(
            InputError,
            match=rf"^--data {third}: the checkpoint that labelled fold 3 was {did} on fold 1, which is to judge; name",
        ):
            test_on_fold_1(seen=[{"digest": manifest.digest, "train": train, "tuning": tuning}])
    with pytest.raises(InputError, match=r"^manifest.json: options.pseudo_labels.seen.0: the field digest is missing$"):
        test_on_fold_1(seen=[{}])


def test_a_folder_of_something_else_is_left_alone(shards: Path, tmp_path: Path) -> None:
    checkpoint, out = save(tmp_path / "model.safetensors", shards), tmp_path / "out"
    out.mkdir()
    (out / ".hidden").touch()
    Record(f"{Path.cwd()}/line/", {}).save(str(out))
    assert plan(checkpoint, shards, out)
    Record("/somewhere/else/", {}).save(str(out))
    with pytest.raises(InputError, match=r"out: was started with --unlabelled /somewhere/else/; give that again"):
        plan(checkpoint, shards, out)
    (out / "round.json").write_text("{")
    with pytest.raises(InputError, match=r"round.json: cannot be read \(not JSON"):
        plan(checkpoint, shards, out)
    (out / "status.json").touch()
    with pytest.raises(InputError, match=r"out: not empty and not of a second round \(it holds status.json\); choose"):
        plan(checkpoint, shards, out)


def test_under_a_launcher_it_starts_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["--checkpoint", "x", "--data", str(shards), "--unlabelled", "line", "--out", str(tmp_path / "out")]
    assert run_program(lambda: main(words)) == 2
    assert "starts the ranks itself; under a launcher take its steps one by one" in capsys.readouterr().err


BETTER, WORSE, NOISE = ("better", 0.02), ("worse", -0.1), ("within the noise", 0.01)
TOO_FEW = ("too few to tell", -0.8)


@pytest.mark.parametrize(
    ("dice", "positive", "iou", "sentence"),
    [
        (BETTER, NOISE, BETTER, "a gain is shown (mean Dice +0.0200, mean IoU +0.0200): ship 2"),
        (NOISE, NOISE, NOISE, "no gain is shown: ship 1"),
        (BETTER, TOO_FEW, NOISE, "a gain is shown (mean Dice +0.0200): ship 2"),
        (TOO_FEW, TOO_FEW, TOO_FEW, "no gain is shown: ship 1"),
        (NOISE, WORSE, NOISE, "a loss is shown (positive Dice -0.1000): ship 1"),
        (BETTER, WORSE, None, "a gain (mean Dice +0.0200) is shown beside a loss (positive Dice -0.1000): ship 1"),
    ],
)
def test_the_verdict_is_a_sentence(
    dice: tuple[str, float], positive: tuple[str, float], iou: tuple[str, float] | None, sentence: str
) -> None:
    """Other scores do not count: among many some seem to gain. What is shipped may still be worth nothing."""
    told = {"mean Dice": dice, "positive Dice": positive, "mean IoU": iou, "Dice of spot": ("better", 0.2)}
    found = {name: {"so": one[0], "difference": one[1]} for name, one in told.items() if one is not None}
    for warning, though in (("", ""), ("never answered: spot", ", though never answered: spot")):
        sources = [
            {"name": name, "warning": warning if sentence.endswith(number) else "of the other"}
            for name, number in {"first": "1", "second": "2"}.items()
        ]
        comparison = {"pairs": [{"why_not": "", "differences": found}], "sources": sources}
        assert verdict(comparison, {"first": "1", "second": "2"}) == sentence + though


def test_two_evaluations_that_cannot_be_compared_are_told_with_what_to_do() -> None:
    sources = [{"name": name, "path": f"out/test/{name}/metrics.json", "warning": ""} for name in ("first", "second")]
    comparison = {"pairs": [{"why_not": "they have no image in common"}], "sources": sources}
    with pytest.raises(InputError) as told:
        verdict(comparison, {"first": "1", "second": "2"})
    assert str(told.value) == (
        "out/test/first/metrics.json and out/test/second/metrics.json: cannot be compared (they have no image in "
        "common); remove the folders of both, and the same command evaluates both checkpoints again"
    )
