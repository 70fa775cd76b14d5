"""What folds were to a checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steel.plain import to_dict
from steel.shards.format import Manifest
from steel.shards.selection import data_digests
from steel.shards.split_roles import LearnedFrom, SeenFolds, role_of, seen_folds, shards_known, tuning_folds
from tests.shard_folder import make_shards, steel_image

USED = {"train": [2, 3], "tuning": [0], "test": [1]}
BEFORE = {"digest": "a", "folds": [5]}
TUNED_ON_B = {
    "name": "two",
    "folds": {"train": [2], "tuning": [5]},
    "provenance": {"data_digest": "a", "tuning_digest": "b"},
}
START = {
    "source": "start.safetensors",
    "seen": [{"digest": "a", "train": [0, 1], "tuning": [4]}, {"digest": "b", "train": [], "tuning": [6]}],
}
MEMBER_OF_B = {"name": "one", "folds": {"train": [3]}, "provenance": {"data_digest": "b"}}
MEMBER_OF_C = {"name": "three", "folds": {"train": [0], "tuning": [1]}, "provenance": {"data_digest": "c"}}
MIXED = {"data_digest": None, "members": [MEMBER_OF_B, MEMBER_OF_C]}
"""An ensemble of several data sets."""


@pytest.mark.parametrize(
    ("folds", "digest", "provenance", "role"),
    [
        ([1], "a", {"data_digest": "a"}, "test"),
        ([0], "a", {"data_digest": "a"}, "tuning"),
        ([0, 1], "a", {"data_digest": "a"}, "tuning"),
        ([0, 1, 2], "a", {"data_digest": "a"}, "train"),
        ([2], "b", {"data_digest": "a"}, "unknown"),  # fold numbers of another data set
        ([0], "b", {"data_digest": "a", "tuning_digest": "b"}, "tuning"),
        ([0], "a", {"data_digest": "a", "tuning_digest": "b"}, "test"),
        ([3], "a", {"data_digest": "a", "tuning_digest": "b"}, "train"),
        ([5], "a", {"data_digest": "a", "tuning_digest": "b", "tuned_before": [BEFORE]}, "tuning"),  # chose the weights
        ([0], "a", {"data_digest": "a", "tuning_digest": "b", "tuned_before": [BEFORE]}, "test"),
        ([0], "b", {"data_digest": "a", "tuning_digest": "b", "tuned_before": [BEFORE]}, "tuning"),
        ([5], "c", {"data_digest": "a", "tuning_digest": "b", "tuned_before": [BEFORE]}, "unknown"),
        ([1], "b", {"data_digest": "a", "tuning_digest": "b"}, "unknown"),  # tuned on these, trained on others
        ([5], "b", {"data_digest": "a", "members": [TUNED_ON_B]}, "tuning"),  # whichever shards the others are of
        ([5], "a", {"data_digest": "a", "members": [TUNED_ON_B]}, "test"),
        ([3], "b", {"data_digest": None, "members": [MEMBER_OF_B]}, "train"),
        ([1], "b", {"data_digest": None, "members": [MEMBER_OF_B]}, "test"),
        ([3], "c", {"data_digest": None, "members": [MEMBER_OF_B]}, "unknown"),
        ([3], "b", MIXED, "train"),
        ([1], "c", MIXED, "tuning"),
        ([1], "b", MIXED, "unknown"),  # which of these images the other member has seen nobody knows
        ([3], "c", MIXED, "unknown"),
        ([1], "b", {"data_digest": None, "members": [{"name": "both", "folds": {}, "provenance": MIXED}]}, "unknown"),
        ([1], "b", {"data_digest": None, "tuning_digest": "b", "members": [MEMBER_OF_B]}, "test"),
        ([0], "b", {"data_digest": None, "tuning_digest": "b", "members": [MEMBER_OF_B, MEMBER_OF_C]}, "tuning"),
        ([1], "a", {"data_digest": "a", "learned_from": [START]}, "train"),  # which the start was trained on
        ([4], "a", {"data_digest": "a", "learned_from": [START]}, "tuning"),
        ([1], "b", {"data_digest": "a", "learned_from": [START]}, "unknown"),
        ([6], "b", {"data_digest": "a", "learned_from": [START]}, "tuning"),
        ([1], "a", {"members": [{"name": "x", "folds": {}, "provenance": {"learned_from": [START]}}]}, "train"),
    ],
)
def test_the_worst_role_counts(folds: list[int], digest: str, provenance: dict[str, object], role: str) -> None:
    assert role_of(folds, [digest], USED, provenance) == role


def test_what_a_checkpoint_has_seen_goes_from_heir_to_heir() -> None:
    """Whatever the shards; of those that nobody knows nothing is told."""
    provenance = {"data_digest": "a", "tuning_digest": "b", "tuned_before": [BEFORE], "learned_from": [START]}
    seen = seen_folds(USED, provenance)
    assert seen == (SeenFolds("a", (0, 1, 2, 3), (4, 5)), SeenFolds("b", (), (0, 6)))
    heir = {"data_digest": "c", "learned_from": [to_dict(LearnedFrom("heir", seen))]}
    assert seen_folds({"train": [7]}, heir) == (*seen, SeenFolds("c", (7,), ()))
    assert seen_folds(USED, {}) == seen_folds(USED, {"data_digest": None}) == ()
    assert tuning_folds(["a", "b"], USED, provenance) == {0, 5}  # those that this training held out itself


@pytest.mark.parametrize(
    ("digests", "known"), [(["a", "b"], "all"), (["a"], "some"), (["b", "x"], "some"), (["c"], "none"), (["x"], "none")]
)
def test_how_much_of_a_training_shards_tell_of(digests: list[str], known: str) -> None:
    seen = [SeenFolds("a", (1,), ()), SeenFolds("b", (2,), ()), SeenFolds("c", (), (3,))]
    assert shards_known(digests, seen) == known
    assert shards_known(digests, []) == "none"


def test_folds_that_a_set_has_kept_are_those_of_the_set_before(tmp_path: Path) -> None:
    """Pseudo-labels add a fold to a set: the checkpoint that made them has been trained on the others."""
    root = make_shards(tmp_path / "shards", [steel_image(n) for n in range(4)], [np.zeros((32, 64), np.uint8)] * 4)
    manifest = Manifest.load(str(root))
    assert data_digests(manifest) == {manifest.digest}
    rounds = [{"fold": 4, "data_digest": "a"}, {"fold": 5, "data_digest": "b"}, {"fold": 6}]
    second = replace(manifest, options={**manifest.options, "pseudo_labels": rounds})
    assert data_digests(second) == {second.digest, "a", "b"}
    assert role_of([3], data_digests(second), USED, {"data_digest": "a"}) == "train"
    assert role_of([3], data_digests(second), USED, {"data_digest": "c"}) == "unknown"
