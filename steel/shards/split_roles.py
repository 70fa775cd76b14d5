"""What a set of folds was to a checkpoint: scores on folds it was trained or tuned on flatter it."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["train", "tuning", "test", "unknown"]
"""What folds were to a checkpoint; `unknown` where it, or a member of it, was trained on other shards alone, as far as
it tells: images of these folds may be among them."""
_WORST_FIRST: tuple[Role, ...] = ("train", "tuning", "unknown", "test")
Known = Literal["all", "some", "none"]
"""How much of what a checkpoint was trained on is told in folds of some shards."""


@dataclass(frozen=True)
class SeenFolds:
    """Folds of one set of shards that a checkpoint owes something to."""

    digest: str
    """Of the shards."""
    train: tuple[int, ...]
    tuning: tuple[int, ...]
    """Those that chose weights or a decision."""


@dataclass(frozen=True)
class LearnedFrom:
    """A checkpoint that a training started from, or had for a teacher, or that labelled a fold for it."""

    source: str
    seen: tuple[SeenFolds, ...]
    """What that had seen, see `seen_folds`: whoever learns from it has seen it, too."""


def role_of(
    folds: Sequence[int], digests: Collection[str], used: Mapping[str, Sequence[int]], provenance: Mapping[str, Any]
) -> Role:
    """The first of `train` and `tuning` that any of the folds was to a checkpoint, or else `unknown`, or `test`; of an
    ensemble the worst for any of its members.

    Args:
        folds: of the shards evaluated on.
        digests: `data_digests` of these shards; fold numbers mean nothing across others.
        used: the checkpoint's folds by role.
        provenance: the checkpoint's, as `seen_folds` reads it.
    """
    roles = [role_in(folds, digests, seen_folds(used, provenance))]
    roles += [role_of(folds, digests, one["folds"], one["provenance"]) for one in provenance.get("members", ())]
    return min(roles, key=_WORST_FIRST.index)


def role_in(folds: Sequence[int], digests: Collection[str], seen: Sequence[SeenFolds]) -> Role:
    """As `role_of`, of all that a checkpoint has seen, whichever of its members did."""
    known = [one for one in seen if one.digest in digests]
    if any(set(folds) & set(one.train) for one in known):
        return "train"
    if any(set(folds) & set(one.tuning) for one in known):
        return "tuning"
    return "test" if shards_known(digests, seen) != "none" else "unknown"


def shards_known(digests: Collection[str], seen: Sequence[SeenFolds]) -> Known:
    """How much of what a checkpoint was trained on is told in folds of the shards that `digests` are of; which of their
    images other shards hold nobody knows."""
    trained = [one.digest in digests for one in seen if one.train]
    if not any(trained):
        return "none"
    return "all" if all(trained) else "some"


def seen_folds(used: Mapping[str, Sequence[int]], provenance: Mapping[str, Any]) -> tuple[SeenFolds, ...]:
    """All folds that a checkpoint was trained or tuned on, by their shards.

    Args:
        used: the checkpoint's folds by role.
        provenance: the checkpoint's, as `trained_on` and `tuning_folds` read it; an ensemble's `members`, each with its
            own folds and provenance, may come from different data, and what any of them was trained or tuned on counts;
            so does what those had seen that it has `learned_from`.
    """
    found: dict[str, tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))

    def count(digest: Any, train: Collection[int], tuning: Collection[int]) -> None:
        if isinstance(digest, str):  # fold numbers of unknown shards mean nothing
            found[digest][0].update(train)
            found[digest][1].update(tuning)

    for digest in trained_on(provenance):
        count(digest, used.get("train", ()), ())
    for choice in _choices(used, provenance):
        count(choice["digest"], (), choice["folds"])
    for member in provenance.get("members", ()):
        for one in seen_folds(member["folds"], member["provenance"]):
            count(one.digest, one.train, one.tuning)
    for former in provenance.get("learned_from", ()):
        for seen in former["seen"]:
            count(seen["digest"], seen["train"], seen["tuning"])
    return tuple(SeenFolds(of, *(tuple(sorted(folds)) for folds in found[of])) for of in sorted(found))


def tuning_folds(
    digests: Collection[str], used: Mapping[str, Sequence[int]], provenance: Mapping[str, Any]
) -> set[int]:
    """The folds of these shards that chose a checkpoint's weights or one of its decisions.

    Args:
        digests: `data_digests` of the shards.
        used: the checkpoint's folds by role; those of `tuning` found its decision.
        provenance: the checkpoint's, as `tuned_on` reads it; `tuned_before` has the folds of earlier choices on other
            shards, each with their `digest`.
    """
    return {fold for one in _choices(used, provenance) if one["digest"] in digests for fold in one["folds"]}


def trained_on(provenance: Mapping[str, Any]) -> list[str | None]:
    """What the shards that a checkpoint was trained on are known by: `data_digests`, which has those whose folds they
    have kept; the `data_digest` alone in files of before that was kept."""
    found: list[str | None] = provenance.get("data_digests", [provenance.get("data_digest")])
    return found


def tuned_on(provenance: Mapping[str, Any]) -> list[str | None]:
    """Likewise of those that its decision was found on, `tuning_digests`; without them those that it was trained on."""
    if "tuning_digest" not in provenance:
        return trained_on(provenance)
    found: list[str | None] = provenance.get("tuning_digests", [provenance["tuning_digest"]])
    return found


def _choices(used: Mapping[str, Sequence[int]], provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    now = [{"digest": digest, "folds": used.get("tuning", ())} for digest in tuned_on(provenance)]
    return [*now, *provenance.get("tuned_before", ())]
