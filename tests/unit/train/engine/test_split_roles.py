"""What folds were to a checkpoint."""

import pytest

from train.engine.split_roles import role_of

USED = {"train": [2, 3], "tuning": [0], "test": [1]}
MEMBER_OF_B = {"name": "one", "folds": {"train": [3]}, "provenance": {"data_digest": "b"}}


@pytest.mark.parametrize(
    ("folds", "digest", "provenance", "role"),
    [
        ([1], "a", {"data_digest": "a"}, "test"),
        ([0], "a", {"data_digest": "a"}, "tuning"),
        ([0, 1], "a", {"data_digest": "a"}, "tuning"),
        ([0, 1, 2], "a", {"data_digest": "a"}, "train"),
        ([2], "b", {"data_digest": "a"}, "test"),  # fold numbers of another data set
        ([0], "b", {"data_digest": "a", "tuning_digest": "b"}, "tuning"),
        ([0], "a", {"data_digest": "a", "tuning_digest": "b"}, "test"),
        ([3], "a", {"data_digest": "a", "tuning_digest": "b"}, "train"),
        ([3], "b", {"data_digest": None, "members": [MEMBER_OF_B]}, "train"),  # an ensemble of several data sets
        ([1], "b", {"data_digest": None, "members": [MEMBER_OF_B]}, "test"),
        ([3], "c", {"data_digest": None, "members": [MEMBER_OF_B]}, "test"),
    ],
)
def test_the_worst_role_counts(folds: list[int], digest: str, provenance: dict[str, object], role: str) -> None:
    assert role_of(folds, digest, USED, provenance) == role
