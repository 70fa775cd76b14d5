"""What folds were to a checkpoint."""

import pytest

from train.roles import role_of

USED = {"train": [2, 3], "calibration": [0], "test": [1]}


@pytest.mark.parametrize(
    ("folds", "digest", "provenance", "role"),
    [
        ([1], "a", {"data_digest": "a"}, "test"),
        ([0], "a", {"data_digest": "a"}, "calibration"),
        ([0, 1], "a", {"data_digest": "a"}, "calibration"),
        ([0, 1, 2], "a", {"data_digest": "a"}, "train"),
        ([2], "b", {"data_digest": "a"}, "test"),  # fold numbers of another data set
        ([0], "b", {"data_digest": "a", "calibration_digest": "b"}, "calibration"),
        ([0], "a", {"data_digest": "a", "calibration_digest": "b"}, "test"),
        ([3], "a", {"data_digest": "a", "calibration_digest": "b"}, "train"),
    ],
)
def test_the_worst_role_counts(folds: list[int], digest: str, provenance: dict[str, str], role: str) -> None:
    assert role_of(folds, digest, USED, provenance) == role
