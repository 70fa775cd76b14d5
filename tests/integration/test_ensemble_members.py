"""An ensemble's members beside it: each gets what its own file gets, and is compared as `steel compare` does."""

import functools
import html
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steel.checkpoint import load_checkpoint, read_header, save_checkpoint, stack_members
from steel.cli import main as steel
from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.inference.predictor import Predictor
from tests.numerics.quick import COARSE
from tests.random_members import make_member
from tests.shard_folder import make_shards
from train.evaluate import main as evaluate
from train.evaluate import tune_thresholds

DECISIONS = [Decision((ClassDecision(t), ClassDecision(u))) for t, u in ((118, 126), (126, 122), (122, 130))]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of noise with large defects, three members, their ensemble, and it with a decision."""
    folder = tmp_path_factory.mktemp("ensemble")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 64), np.uint8) for _ in range(24)]
    masks = [((rng.random((32, 64)) < 0.5) * (n % 4)).astype(np.uint8) for n in range(24)]
    make_shards(folder / "shards", images, masks, num_classes=2, folds=1)
    folds = {"train": [1], "tuning": [2], "test": [0]}
    members = [make_member(seed, decision=DECISIONS[seed], folds=folds) for seed in range(3)]
    for seed, member in enumerate(members):
        save_checkpoint(folder / f"m{seed}.safetensors", member)
    names = [str(folder / f"m{seed}.safetensors") for seed in range(3)]
    assert steel(["ensemble", *names, "--out", str(folder / "all.safetensors")]) == 0
    return folder


def judged(work: Path, name: str, *options: str) -> dict[str, Any]:
    out = work / f"{name}{''.join(options)}"
    line = ["--checkpoint", str(work / f"{name}.safetensors"), "--data", str(work / "shards"), "--folds", "all"]
    assert evaluate([*line, "--workers", "0", "--precision", "no", "--out", str(out), *options]) == 0
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.usefixtures("fresh_accelerate")
def test_each_member_is_what_its_own_file_is(work: Path) -> None:
    torch.set_num_threads(1)
    metrics = judged(work, "all", "--members")
    found = metrics["ensemble"]
    assert [member["name"] for member in found["members"]] == [f"m{k}.safetensors" for k in range(3)]
    assert found["mean_dice"] == metrics["mean_dice"]
    for k, member in enumerate(found["members"]):
        alone = judged(work, f"m{k}")
        assert member["has_decision"] and member["role"] == alone["role"] == "unknown"
        for key in ("mean_dice", "mean_dice_positive", "dice_positive_per_class", "cross_entropy"):
            assert member[key] == alone[key], key
        assert member["intervals"]["mean_dice"] == alone["intervals"]["mean_dice"]
        compared = work / f"{k}.html"
        assert steel(["compare", str(work / f"m{k}"), str(work / "all--members"), "--out", str(compared)]) == 0
        (pair,) = json.loads(compared.with_suffix(".json").read_text())["pairs"]
        for key, measure in (("mean_dice", "mean Dice"), ("mean_dice_positive", "positive Dice")):
            expected = pair["differences"][measure]
            assert member["gain"][key]["difference"] == pytest.approx(expected["difference"], abs=1e-5)
            # Other draws: the table that is compared stands worst first.
            assert member["gain"][key]["interval"] == pytest.approx(expected["interval"], abs=0.01)
            assert member["gain"][key]["so"] == expected["so"]

    page = (work / "all--members" / "report.html").read_text()
    assert "Members beside each other" in page and 'data-from="/ensemble/members/2/gain/mean_dice/difference"' in page
    assert "by its own decision" in html.unescape(page)
    best = max(found["members"], key=lambda member: member["mean_dice"])
    assert f"over the best of them, {best['name']}, it gains" in found["sentence"]
    assert found["sentence"].endswith("it has no decision of its own yet: --tune-thresholds finds one")
    assert "Members beside each other" not in (work / "m0" / "report.html").read_text()


@pytest.mark.usefixtures("fresh_accelerate")
def test_decisions_found_here_are_compared_cross_fitted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("train.evaluate.tune_thresholds", functools.partial(tune_thresholds, space=COARSE))
    tuning = ("--tune-thresholds", "--gates", "none")
    metrics = judged(work, "all", "--members", *tuning)
    assert metrics["ensemble"]["mean_dice"] == metrics["cross_fitted"]["mean_dice"]
    for k, member in enumerate(metrics["ensemble"]["members"]):
        assert member["mean_dice"] == judged(work, f"m{k}", *tuning)["cross_fitted"]["mean_dice"]
    page = html.unescape((work / "all--members--tune-thresholds--gatesnone" / "report.html").read_text())
    assert "what is compared is cross-fitted" in page


@pytest.mark.usefixtures("fresh_accelerate")
def test_an_ensemble_is_tuned_and_judged_with_the_flips_of_all_its_members(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a prediction takes them; a member used alone has further ones, and the page says so."""
    torch.set_num_threads(1)
    monkeypatch.setattr("train.evaluate.tune_thresholds", functools.partial(tune_thresholds, space=COARSE))
    of_members = [["hflip", "vflip"], ["vflip"]]
    names = [str(work / f"flips{k}.safetensors") for k in range(2)]
    for k, name in enumerate(names):
        save_checkpoint(name, make_member(k, decision=replace(DECISIONS[k], tta=tuple(of_members[k]))))
    flipping = str(work / "flipping.safetensors")
    assert steel(["ensemble", *names, "--out", flipping]) == 0

    tuning = ("--members", "--tune-thresholds", "--gates", "none")
    differ = "The flips averaged are not the same: ensemble vflip; flips0.safetensors hflip, vflip; flips1.safetensors "
    for options, expected, told in (
        (("--members",), of_members, True),
        (("--members", "--tta", "hvflip"), [["hvflip"]] * 2, False),
        (tuning, [["vflip"]] * 2, False),
    ):
        metrics = judged(work, "flipping", *options)
        ensemble, views = metrics["ensemble"], ["hvflip"] if "--tta" in options else ["vflip"]
        assert metrics["tta"] == ensemble["tta"] == views
        assert [member["tta"] for member in ensemble["members"]] == expected
        page = html.unescape((work / f"flipping{''.join(options)}" / "report.html").read_text())
        assert (f"{differ}vflip. " in page) == told
    assert Predictor.from_checkpoint(flipping, device="cpu").tta == ("vflip",)
    assert read_header(work / f"flipping{''.join(tuning)}" / "model.safetensors")["decision"]["tta"] == ["vflip"]


@pytest.mark.usefixtures("fresh_accelerate")
def test_one_network_has_no_members(work: Path) -> None:
    with pytest.raises(InputError, match=r"--members: .*m0.safetensors holds one network; `steel ensemble` packs"):
        judged(work, "m0", "--members")
    assert not (work / "m0--members").exists()


@pytest.mark.usefixtures("fresh_accelerate")
def test_tuning_chooses_among_the_gates_that_are_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they gain: thresholds of one half, without a gate, would stay."""
    torch.set_num_threads(1)
    space = replace(COARSE, confidence=None)
    monkeypatch.setattr("train.evaluate.tune_thresholds", functools.partial(tune_thresholds, space=space))
    judged(work, "m0", "--tune-thresholds", "--gates", "class,soft")
    header = read_header(work / "m0--tune-thresholds--gatesclass,soft" / "model.safetensors")
    assert header["decision"]["gate"] in ("class", "soft")
    assert set(header["provenance"]["gates"]) == {"class", "soft"}
    with pytest.raises(InputError, match=r"--gates foo: there is no gate 'foo'; choose among none, binary, class,"):
        judged(work, "m0", "--tune-thresholds", "--gates", "foo")
    with pytest.raises(InputError, match=r"--gates none: a gate is chosen by --tune-thresholds; give that too"):
        judged(work, "m0", "--gates", "none")


def test_one_file_and_one_network_twice_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (str(work / f"m{k}.safetensors") for k in (0, 1))
    copy, both, twice = (str(work / f"{name}.safetensors") for name in ("copy", "both", "twice"))
    shutil.copy(one, copy)
    assert steel(["ensemble", one, other, "--out", both]) == 0
    save_checkpoint(twice, stack_members([load_checkpoint(one)] * 2))  # as an earlier version made one
    for names, told in (
        ([one], "one file alone makes no ensemble"),
        ([one, other, copy], f"{copy}: holds weights of {one};"),
        ([both, other], f"{other}: holds weights of {both};"),
        ([other, both], f"{both}: holds weights of {other};"),
        ([both, both], f"{both}: holds weights of {both};"),
        ([other, twice], f"{twice}: holds the same weights twice;"),
    ):
        assert steel(["ensemble", *names, "--out", str(work / "none.safetensors")]) == 2
        assert told in capsys.readouterr().err
    assert not (work / "none.safetensors").exists()
