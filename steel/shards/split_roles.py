"""What a set of folds was to a checkpoint: scores on folds it was trained or tuned on flatter it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def role_of(
    folds: Sequence[int], digests: Collection[str], used: Mapping[str, Sequence[int]], provenance: Mapping[str, Any]
) -> str:
    """`train`, `tuning` or `test`: the first of these that any of the folds was.

    Args:
        folds: of the shards evaluated on.
        digests: `data_digests` of these shards; fold numbers mean nothing across others.
        used: the checkpoint's folds by role.
        provenance: the checkpoint's; `data_digest` of the shards it was trained on, and `tuning_digest` of those
            its decision was found on where they are others; an ensemble's `members`, each with its own folds and
            provenance, may come from different data, and what any of them was trained on counts.
    """
    trained_on = provenance.get("data_digest")
    tuned_on = provenance.get("tuning_digest", trained_on)
    if trained_on in digests and set(folds) & set(used.get("train", ())):
        return "train"
    for member in provenance.get("members", ()):
        if role_of(folds, digests, member["folds"], member["provenance"]) == "train":
            return "train"
    if tuned_on in digests and set(folds) & set(used.get("tuning", ())):
        return "tuning"
    return "test"
