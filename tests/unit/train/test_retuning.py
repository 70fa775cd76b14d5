"""What a checkpoint remembers of the images that chose it, however often its decision is found anew."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from steel.checkpoint import Checkpoint, read_header, save_checkpoint, stack_members
from steel.decision import default_decision
from steel.errors import InputError
from steel.reports.describe import describe_checkpoint
from steel.shards.split_roles import role_of
from steel.thresholds.tuning import Tuning
from tests.random_members import make_member
from train import evaluate
from train.evaluate import retuned


@pytest.fixture
def trained() -> Checkpoint:
    return replace(make_member(1), folds={"train": [2], "tuning": [0], "test": [1]}, provenance={"data_digest": "a"})


def tune_on(checkpoint: Checkpoint, digest: str, folds: list[int], kept_from: Sequence[str] = ()) -> Checkpoint:
    """On shards that have kept the folds of others."""
    found: Any = type("Found", (), {"decision": default_decision(2), "by_gate": {}})
    manifest: Any = SimpleNamespace(digest=digest, options={"pseudo_labels": [{"data_digest": d} for d in kept_from]})
    return retuned(checkpoint, cast(Tuning, found), folds, manifest, cast(Any, None))


def roles(checkpoint: Checkpoint, *digests: str) -> str:
    """Of folds 0, 1 and 2."""
    return " ".join(role_of([fold], digests, checkpoint.folds, checkpoint.provenance) for fold in range(3))


@pytest.mark.parametrize("order", list(itertools.permutations([("a", [1]), ("b", [1]), ("c", [0, 2])])))
def test_every_choice_counts_in_whatever_order_they_were_made(
    trained: Checkpoint, order: tuple[tuple[str, list[int]], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "expected_figures", lambda *given: {})
    assert roles(trained, "a") == "tuning test train"
    checkpoint = trained
    for digest, folds in order:
        checkpoint = tune_on(checkpoint, digest, folds)
        assert role_of(folds, [digest], checkpoint.folds, checkpoint.provenance) == "tuning"
        assert role_of([0], ["a"], checkpoint.folds, checkpoint.provenance) == "tuning"  # it chose the weights
        assert digest != "a" or not {*checkpoint.folds["test"]} & {*checkpoint.folds["tuning"]}
    assert checkpoint.folds["test"] == []  # the last fold that was, and it stays so
    assert roles(checkpoint, "a") == "tuning tuning train"
    assert roles(checkpoint, "b") == "unknown tuning unknown"
    assert roles(checkpoint, "c") == "tuning unknown tuning"
    assert roles(checkpoint, "d") == "unknown unknown unknown"


def test_a_test_fold_that_tuned_is_no_test_fold_any_more(
    trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "expected_figures", lambda *given: {})
    trained = replace(trained, folds={**trained.folds, "test": [1, 3]})
    assert tune_on(trained, "b", [1]).folds == {"train": [2], "tuning": [1], "test": [1, 3]}  # of other shards
    assert tune_on(trained, "a", [1]).folds == {"train": [2], "tuning": [0, 1], "test": [3]}
    both = tune_on(trained, "a", [1, 3])
    assert both.folds == {"train": [2], "tuning": [0, 1, 3], "test": []}
    save_checkpoint(tmp_path / "model.safetensors", replace(both, provenance=trained.provenance))
    header = read_header(tmp_path / "model.safetensors")
    assert "folds          train 2; tuning 0, 1, 3; test none" in describe_checkpoint(header)
    pair = stack_members([both, replace(make_member(2), folds=trained.folds, provenance=trained.provenance)])
    assert pair.folds == {"train": [2], "tuning": [0, 1, 3], "test": []}


def test_folds_that_shards_have_kept_are_known_by_either_digest(
    trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `a` pseudo-labels made `a2` and `a3`, which both have its folds."""
    monkeypatch.setattr(evaluate, "expected_figures", lambda *given: {})
    tuned = tune_on(trained, "a2", [1], ["a"])
    assert tuned.folds == {"train": [2], "tuning": [0, 1], "test": []}
    assert tuned.provenance["tuned_before"] == []
    assert [roles(tuned, *digests) for digests in (["a"], ["a2", "a"], ["a3", "a"])] == ["tuning tuning train"] * 3

    known = {"data_digest": "a2", "data_digests": ["a", "a2"]}
    on_a2 = replace(trained, provenance=known, folds={**trained.folds, "test": [1, 3]})
    assert [roles(on_a2, *digests) for digests in (["a"], ["a2", "a"], ["a3", "a"])] == ["tuning test train"] * 3
    assert roles(on_a2, "b") == "unknown unknown unknown"
    assert roles(replace(on_a2, provenance={"data_digest": "a2"}), "a") == "unknown unknown unknown"  # as it was kept
    for of_a2 in (tune_on(on_a2, "a", [1]), tune_on(on_a2, "a3", [1], ["a"])):
        assert of_a2.folds == {"train": [2], "tuning": [0, 1], "test": [3]}
        assert roles(of_a2, "a2", "a") == roles(of_a2, "a") == "tuning tuning train"

    elsewhere = tune_on(on_a2, "b", [1])
    assert (elsewhere.folds["tuning"], elsewhere.folds["test"]) == ([1], [1, 3])
    assert elsewhere.provenance["tuned_before"] == [{"digest": "a", "folds": [0]}, {"digest": "a2", "folds": [0]}]
    assert roles(elsewhere, "a") == "tuning test train"
    pair = tune_on(stack_members([on_a2, replace(make_member(2), folds=on_a2.folds, provenance=known)]), "a", [1])
    assert (pair.folds["test"], roles(pair, "a3", "a")) == ([3], "tuning tuning train")


@pytest.mark.parametrize("known_by", ["data_digests", "tuning_digests"])
def test_digests_of_another_type_are_refused(trained: Checkpoint, tmp_path: Path, known_by: str) -> None:
    save_checkpoint(tmp_path / "model.safetensors", replace(trained, provenance={known_by: [None]}))
    with pytest.raises(InputError, match=rf"provenance\.{known_by}\.0 must be a text"):
        read_header(tmp_path / "model.safetensors")


def test_an_ensemble_of_different_shards_has_no_folds_of_its_own_to_remember(
    trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "expected_figures", lambda *given: {})
    other = replace(trained, provenance={"data_digest": "b"})
    tuned = tune_on(stack_members([trained, other], ["a", "b"]), "a", [1])
    assert (tuned.folds, tuned.provenance["tuned_before"]) == ({"tuning": [1]}, [])
    assert (roles(tuned, "a"), roles(tuned, "b")) == ("tuning tuning train", "tuning unknown train")


def test_what_it_remembers_is_told(trained: Checkpoint, tmp_path: Path) -> None:
    one, other = ({"digest": digest, "tuning": [fold]} for digest, fold in (("0123456789", 0), ("abcdefghij", 4)))
    start = {"source": "start.safetensors", "seen": [{**one, "train": [2, 3]}, {**other, "train": []}]}
    before = [{"digest": "fedcba9876", "folds": [1, 5]}]
    remembering = replace(trained, provenance={"learned_from": [start], "tuned_before": before})
    save_checkpoint(tmp_path / "model.safetensors", remembering)
    lines = [" ".join(line.split()) for line in describe_checkpoint(read_header(tmp_path / "model.safetensors"))]
    assert lines[-2:] == [
        "learned from start.safetensors (train folds 2, 3 of shards 01234567; tuning fold 0 of shards 01234567; "
        "tuning fold 4 of shards abcdefgh)",
        "tuned before on folds 1, 5 of shards fedcba98",
    ]
