"""Which rows of the shards are meant, and whether they are of a model's task."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from steel.errors import InputError, counted
from steel.images.pixel_format import Depth
from steel.plain import from_plain
from steel.shards.format import MANIFEST_NAME, Manifest
from steel.shards.reader import ShardReader
from steel.shards.split_roles import SeenFolds

PSEUDO_LABELS = "pseudo_labels"
"""In a manifest's options: a list of the rounds in which a checkpoint has labelled images, each with its `fold`."""
SEEN = "seen"
"""In what the manifest says of a round: the folds that its checkpoint has seen, see `seen_folds`."""


def pseudo_rounds(manifest: Manifest) -> list[dict[str, Any]]:
    """What a set says of the rounds in which a checkpoint has labelled images for it, the last one last."""
    rounds = manifest.options.get(PSEUDO_LABELS)
    return [one for one in rounds if isinstance(one, dict)] if isinstance(rounds, list) else []


def num_unreadable(manifest: Manifest) -> int:
    """How many images the last round of pseudo-labels has left out because they could not be read."""
    said = [one.get("unreadable") for one in pseudo_rounds(manifest)[-1:]]
    return sum(number for number in said if type(number) is int)


def pseudo_folds(manifest: Manifest) -> list[int]:
    """The folds whose labels are a checkpoint's: they are there to train on, and say nothing as a yardstick."""
    return [one["fold"] for one in pseudo_rounds(manifest) if type(one.get("fold")) is int]


def labelled_by(manifest: Manifest) -> dict[int, tuple[SeenFolds, ...]]:
    """By the fold whose labels are a checkpoint's, what that had seen; nothing in shards of before it was kept.

    Raises:
        InputError: what the manifest says of it is malformed.
    """
    rounds = [one for one in pseudo_rounds(manifest) if type(one.get("fold")) is int]
    name = f"{MANIFEST_NAME}: options.{PSEUDO_LABELS}.{SEEN}"
    return {one["fold"]: from_plain(tuple[SeenFolds, ...], one.get(SEEN, ()), name) for one in rounds}


def data_digests(manifest: Manifest) -> frozenset[str]:
    """What a set is known by where folds are told: its own digest, and those of the sets whose folds it has kept."""
    before = (one.get("data_digest") for one in pseudo_rounds(manifest))
    return frozenset([manifest.digest, *(digest for digest in before if isinstance(digest, str))])


def folds_of(reader: ShardReader) -> list[int]:
    """The folds that the shards have."""
    return sorted({int(fold) for fold in np.unique(reader.index.fold)})


def labelled_folds(reader: ShardReader) -> list[int]:
    """The folds of which people have labelled the images; these alone judge."""
    pseudo = pseudo_folds(reader.manifest)
    return [fold for fold in folds_of(reader) if fold not in pseudo]


def refuse_pseudo(name: str, judging: Collection[int], manifest: Manifest) -> None:
    """Raises InputError, which begins with `name`, where a checkpoint has labelled any of the folds that judge."""
    pseudo = sorted({*judging} & {*pseudo_folds(manifest)})
    if pseudo:
        raise InputError(
            f"{name}: a checkpoint has labelled fold {' '.join(map(str, pseudo))}; judge by what people have labelled"
        )


def rows_in(reader: ShardReader, folds: Sequence[int], role: str) -> np.ndarray:
    """(n,) rows of `folds`, ascending.

    Raises:
        InputError: a fold that the shards do not have, or no rows at all.
    """
    present = folds_of(reader)
    missing = [f for f in folds if f not in present]
    if missing or not folds:
        wanted = f"fold {missing[0]} is not in the shards" if missing else "no fold is left"
        raise InputError(f"{role} folds: {wanted}; the shards have folds {', '.join(map(str, present))}")
    return reader.index.rows(list(folds))


def check_same_task(name: str, class_names: Sequence[str], in_channels: int, depth: Depth, manifest: Manifest) -> None:
    """Raises InputError, which begins with `name`, unless a model is for the classes, the channels and the gray levels
    of the shards."""
    if tuple(class_names) != manifest.class_names:
        raise InputError(
            f"{name}: its classes are {', '.join(class_names)}, those of the shards "
            f"{', '.join(manifest.class_names)}; take shards with the same classes, or a checkpoint of these"
        )
    if in_channels < manifest.channels:  # a gray image is one of three equal channels, too
        kinds = {1: "gray", 3: "colour"}
        raise InputError(
            f"{name}: it takes {kinds[in_channels]} images, the shards hold {kinds[manifest.channels]} ones; take "
            "images of the kind it was trained on"
        )
    if depth != manifest.depth:
        raise InputError(
            f"{name}: it reads images of 16 bits by {depth}, the shards theirs by {manifest.depth}; take shards like "
            "those it was trained on"
        )


def check_stored_sizes(name: str, input_size: tuple[int, int] | None, reader: ShardReader, rows: np.ndarray) -> None:
    """Refuse images stored at another size than a model is given in prediction, where it would say something else.

    Args:
        name: what the message begins with.
        input_size: height and width that images are resized to for it; as they are when None.
        reader: of the shards.
        rows: of the images that are judged.

    Raises:
        InputError: some image is stored at another size.
    """
    index = reader.index
    stored = np.stack([index.height[rows], index.width[rows]], axis=1)
    given = np.stack([index.original_height[rows], index.original_width[rows]], axis=1)
    wanted = given if input_size is None else np.broadcast_to(np.asarray(input_size), given.shape)
    odd = np.flatnonzero((stored != wanted).any(axis=1))
    if len(odd):
        (height, width), first = stored[odd[0]], index.image_id(int(rows[odd[0]]))
        takes = "at their own size" if input_size is None else f"resized to {input_size[0]}x{input_size[1]}"
        way = "without --resize" if input_size is None else f"with --resize {input_size[0]}x{input_size[1]}"
        raise InputError(
            f"{name}: it takes images {takes}, the shards hold {counted(len(odd), 'image')} of another one, as {first} "
            f"at {height}x{width}; make shards {way}"
        )
