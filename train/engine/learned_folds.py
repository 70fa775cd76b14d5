"""What a training starts or learns from, and the folds that this has seen: they flatter the scores of this run."""

import logging
from collections.abc import Mapping, Sequence

from steel.checkpoint import Checkpoint, read_header
from steel.config import Config, FoldsConfig
from steel.errors import told_url
from steel.shards.format import Manifest
from steel.shards.selection import data_digests, labelled_by
from steel.shards.split_roles import LearnedFrom, SeenFolds, role_in, role_of, seen_folds

logger = logging.getLogger("train.fit")


def find_learned_from(
    config: Config, start: tuple[LearnedFrom, ...], option: str, data: Manifest
) -> tuple[LearnedFrom, ...]:
    """The checkpoints of this program that a run begins with, that labelled folds for it, and that it is taught by. Of
    all but teachers it is said where they have seen what is to judge; `load_teacher` says so of these.

    Args:
        config: of the run.
        start: those that it begins with.
        option: which has named them.
        data: that it is to be trained on.

    Raises:
        InputError: a teacher that cannot be read, or shards whose manifest is malformed.
    """
    labellers = labelled_by(data)
    for one in start:
        warn_of_seen(f"{option} {one.source}", one.seen, config.folds, data)
    for fold, seen in labellers.items():
        warn_of_seen(f"the checkpoint that labelled fold {fold}", seen, config.folds, data)
    found = (*start, *(LearnedFrom(f"pseudo-labels of fold {fold}", seen) for fold, seen in labellers.items()))
    if not config.distill.teacher:
        return found
    header = read_header(config.distill.teacher)
    seen = seen_folds(header["folds"], header["provenance"])
    return (*found, LearnedFrom(told_url(config.distill.teacher), seen))


def warn_of_seen(name: str, seen: Sequence[SeenFolds], folds: FoldsConfig, data: Manifest) -> None:
    """Say where folds that are to judge a run are among those that something was trained on which it learns from.

    Args:
        name: what the warning begins with.
        seen: by that.
        folds: of the run.
        data: of the run.
    """
    # That validation folds chose the weights before is told of nowhere: they choose those of this run, too.
    for role, judging, told in (("validation", folds.validation, {"train"}), ("test", folds.test, {"train", "tuning"})):
        did = role_in(judging, data_digests(data), seen)
        if did in told:
            verb = "trained" if did == "train" else "tuned"
            logger.warning("WARNING: %s was %s on %s folds of this run, whose scores it flatters", name, verb, role)


def seen_by_members(members: Mapping[int, Checkpoint], data: Manifest) -> list[int]:
    """The folds of a cross-validation that what their members have learned from was trained on.

    Args:
        members: by the fold that each judges.
        data: of the cross-validation.
    """
    digests = data_digests(data)
    return [fold for fold, one in members.items() if role_of([fold], digests, one.folds, one.provenance) == "train"]
