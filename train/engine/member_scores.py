"""The members of an ensemble, judged one by one on the images that judge the ensemble."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from steel.checkpoint import Checkpoint, unstack_members
from steel.reports.members import Judged, member_metrics
from steel.shards.split_roles import role_of

Judge = Callable[[Checkpoint, str, str], Judged]
"""Predicts all images by a checkpoint, and answers them; also given its name, and what the images were to it."""


def judge_members(
    checkpoint: Checkpoint,
    judge: Judge,
    ensemble: Judged,
    folds: Sequence[int],
    digests: Collection[str],
) -> dict[str, Any]:
    """Each member of `checkpoint` beside it; see `member_metrics`.

    Args:
        checkpoint: an ensemble.
        judge: of one member; a pass over all images each.
        ensemble: what they say of the average.
        folds: the judged ones.
        digests: `data_digests` of their shards.
    """
    members = []
    for name, member in unstack_members(checkpoint):
        members.append(judge(member, name, role_of(folds, digests, member.folds, member.provenance)))
    return member_metrics(ensemble, members, checkpoint.class_names)
