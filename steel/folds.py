"""Dealing images to folds: stratified by class, duplicates together."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steel.errors import InputError, counted

MAX_FOLDS = 2**15 - 1


def name_folds(folds: Sequence[int]) -> str:
    """In words: `fold 0`, `folds 1, 2`, `no fold`."""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}" if folds else "no fold"


def assign_folds(
    image_ids: Sequence[str], groups: npt.NDArray[np.integer], classes: npt.NDArray[np.bool_], num_folds: int, seed: int
) -> npt.NDArray[np.int16]:
    """Deal images to folds so that each fold holds its share of every class, of clean images and of all images.

    Iterative stratification: the class with the fewest images left is dealt first, its groups one by one to the fold
    that misses it most (large groups first, as they are hard to place); clean images come last and even out the sizes.
    The same images, groups and seed give the same folds, in whatever order and under whatever numbers they come.

    Args:
        image_ids: (N,) different names.
        groups: (N,) group numbers; the images of a group land in one fold.
        classes: (N, C), whether an image has some pixel of each class.
        num_folds: At least 1; one fold is a set that is only evaluated.
        seed: Another seed, other folds.

    Returns:
        (N,) int16, 0 to num_folds - 1.

    Raises:
        InputError: fewer groups than folds, or an impossible number of folds.
    """
    if not 1 <= num_folds <= MAX_FOLDS:
        raise InputError(f"{num_folds} folds: give 1 to {MAX_FOLDS}")
    _, group_of = np.unique(groups, return_inverse=True)
    num_groups = int(group_of.max()) + 1 if len(group_of) else 0
    if num_groups < num_folds:
        held = f"{counted(len(image_ids), 'image')} in {counted(num_groups, 'group')}"
        raise InputError(f"{held} cannot fill {num_folds} folds")

    order = _group_order(image_ids, group_of, num_groups, seed)
    group_of = np.argsort(order)[group_of]  # from here on a group's number is its place in the dealing
    counts = _counts_per_group(group_of, classes, num_groups)
    return _deal(counts, num_folds)[group_of].astype(np.int16)


def put_large_last(folds: npt.NDArray[np.int16], groups: npt.NDArray[np.integer]) -> npt.NDArray[np.int16]:
    """Folds numbered anew where a group is larger than an even fold: those that are too large come last.

    Unless told otherwise the first folds judge and the others train: with the largest group in the first, less might be
    left to train on than judges.

    Args:
        folds: (N,) of `assign_folds`.
        groups: (N,) group numbers, from 0.

    Returns:
        (N,) int16; the same images lie together. The first is the largest of those that are not too large.
    """
    sizes = np.bincount(folds)
    if np.bincount(groups).max() * len(sizes) <= len(folds):
        return folds
    is_large = sizes * len(sizes) > len(folds)
    order = np.lexsort((np.where(is_large, sizes, -sizes), is_large))
    return np.argsort(order).astype(np.int16)[folds]


def _group_order(
    image_ids: Sequence[str], group_of: npt.NDArray[np.integer], num_groups: int, seed: int
) -> npt.NDArray[np.intp]:
    """Group numbers in the order of dealing: large ones first, else shuffled by the names of their images."""
    key = seed.to_bytes(8, "little", signed=True)
    digests = [hashlib.blake2b(image_id.encode(), digest_size=8, key=key).digest() for image_id in image_ids]
    lowest = np.full(num_groups, 2**64 - 1, np.uint64)
    np.minimum.at(lowest, group_of, np.frombuffer(b"".join(digests), "<u8"))
    return np.lexsort((lowest, -np.bincount(group_of, minlength=num_groups)))


def _counts_per_group(
    group_of: npt.NDArray[np.integer], classes: npt.NDArray[np.bool_], num_groups: int
) -> npt.NDArray[np.int64]:
    """(num_groups, C + 1): images of each class in each group, and all its images in the last column."""
    columns = [np.bincount(group_of[column], minlength=num_groups) for column in classes.T]
    return np.stack([*columns, np.bincount(group_of, minlength=num_groups)], axis=1)


def _deal(counts: npt.NDArray[np.int64], num_folds: int) -> npt.NDArray[np.int64]:
    """Fold of each group, given its images per class and in all (last column); groups come in the order of dealing."""
    num_groups, num_columns = counts.shape
    fold_of = np.full(num_groups, -1, np.int64)
    missing = np.repeat(counts.sum(axis=0)[None] / num_folds, num_folds, axis=0)  # (folds, columns) still to be dealt
    everything = num_columns - 1
    while (fold_of < 0).any():
        left = counts[fold_of < 0].sum(axis=0)
        rare = [column for column in range(everything) if left[column]]
        column = min(rare, key=lambda c: left[c], default=everything)
        for group in np.flatnonzero((fold_of < 0) & (counts[:, column] > 0)):
            # Among the folds that miss this class most, the one that misses most images; the last tie turns with the
            # group, so that no fold is always served first.
            turn = (np.arange(num_folds) - group) % num_folds
            fold = np.lexsort((turn, -missing[:, everything], -missing[:, column]))[0]
            fold_of[group] = fold
            missing[fold] -= counts[group]
    return fold_of
