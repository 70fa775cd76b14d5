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
            its decision was found on where they are others; `tuned_before`, as `tuning_folds` reads it; an ensemble's
            `members`, each with its own folds and provenance, may come from different data, and what any of them was
            trained or tuned on counts.
    """
    members = [role_of(folds, digests, one["folds"], one["provenance"]) for one in provenance.get("members", ())]
    trained = used.get("train", ()) if provenance.get("data_digest") in digests else ()
    if set(folds) & set(trained) or "train" in members:
        return "train"
    if set(folds) & tuning_folds(digests, used, provenance) or "tuning" in members:
        return "tuning"
    return "test"


def tuning_folds(
    digests: Collection[str], used: Mapping[str, Sequence[int]], provenance: Mapping[str, Any]
) -> set[int]:
    """The folds of these shards that chose a checkpoint's weights or one of its decisions.

    Args:
        digests: `data_digests` of the shards.
        used: the checkpoint's folds by role; those of `tuning` found its decision.
        provenance: the checkpoint's; `tuned_before` has the folds of earlier choices on other shards, each with their
            `digest`.
    """
    tuned_on = provenance.get("tuning_digest", provenance.get("data_digest"))
    choices = [{"digest": tuned_on, "folds": used.get("tuning", ())}, *provenance.get("tuned_before", ())]
    return {fold for choice in choices if choice["digest"] in digests for fold in choice["folds"]}
