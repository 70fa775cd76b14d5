"""Which fold each image is in: stratified, published or given by the user."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from steel.data.csv_file import read_table, whole_number
from steel.data.problems import Problem, raise_problems
from steel.errors import InputError

MAX_FOLDS = 2**15 - 1
_CLASSIC_VALIDATION, _CLASSIC_TEST, _CLASSIC_TRAIN = 0, 1, 2
_CLASSIC_RAREST_FIRST = (2, 4, 1, 3)


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
        raise InputError(f"{len(image_ids)} images in {num_groups} groups cannot fill {num_folds} folds")

    order = _group_order(image_ids, group_of, num_groups, seed)
    group_of = np.argsort(order)[group_of]  # from here on a group's number is its place in the dealing
    counts = _counts_per_group(group_of, classes, num_groups)
    return _deal(counts, num_folds)[group_of].astype(np.int16)


def severstal_classic(image_ids: Sequence[str], classes: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    """The published split of Severstal's 12,568 training images into 9,048 / 2,263 / 1,257.

    Ids sorted, stratified by each image's rarest class (2, 4, 1, 3 in this order, else clean), 10 % test and then 20 %
    of the rest validation, by scikit-learn's `train_test_split` with `random_state=42`.

    Args:
        image_ids: (N,) file names.
        classes: (N, 4), whether an image has some pixel of each class.

    Returns:
        (N,) int16: 2 for training, 0 for validation, 1 for the test.

    Raises:
        InputError: not four classes, too few images of some class to split it, or no scikit-learn.
    """
    if classes.ndim != 2 or classes.shape[1] != len(_CLASSIC_RAREST_FIRST):
        raise InputError(f"the classic Severstal split is for 4 classes, not {classes.shape[-1]}")
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise InputError("the classic Severstal split needs scikit-learn: install the extra `train`") from None

    stratum = np.zeros(len(image_ids), np.int64)
    for class_id in reversed(_CLASSIC_RAREST_FIRST):
        stratum[classes[:, class_id - 1]] = class_id
    rows = np.argsort(np.asarray(image_ids, dtype=np.str_), kind="stable")
    folds = np.full(len(rows), _CLASSIC_TRAIN, np.int16)
    try:
        rest, test = train_test_split(rows, test_size=0.1, random_state=42, stratify=stratum[rows])
        _, validation = train_test_split(rest, test_size=0.2, random_state=42, stratify=stratum[rest])
    except ValueError as error:
        raise InputError(f"too few images for the classic Severstal split: {error}") from None
    folds[test] = _CLASSIC_TEST
    folds[validation] = _CLASSIC_VALIDATION
    return folds


def read_split_file(url: str, image_ids: Sequence[str]) -> npt.NDArray[np.int16]:
    """The folds that a CSV file with the header `image,fold` gives to images.

    Args:
        url: Path or URL of the file.
        image_ids: (N,) the images that need a fold; the file must name each once, and no others.

    Returns:
        (N,) int16.

    Raises:
        ProblemsError: rows that are malformed or twice there, ids without an image, images without a fold, all at once.
        InputError: no such file, or another header.
    """
    table = read_table(url, ("image", "fold"))
    wanted = set(image_ids)
    folds: dict[str, int] = {}
    problems = list(table.problems)
    for line, (image_id, text) in table.rows:
        fold = whole_number(text)
        if fold is None or fold >= MAX_FOLDS:
            problems.append(Problem("rows without a fold number", f"line {line} ({image_id},{text})"[:60]))
        elif image_id in folds:
            problems.append(Problem("duplicate rows", f"{image_id} (line {line})"))
        elif image_id not in wanted:
            problems.append(Problem("ids without an image", image_id))
        folds.setdefault(image_id, fold or 0)
    problems += [Problem("images without a fold", image_id) for image_id in image_ids if image_id not in folds]
    raise_problems(problems, f"in {url}")
    return np.array([folds[image_id] for image_id in image_ids], np.int16)


def straddling_groups(groups: npt.NDArray[np.integer], folds: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """The groups (sorted) whose images lie in more than one fold, as a given split may have it: those leak."""
    pairs = np.unique(np.stack([groups, folds], axis=1), axis=0)
    numbers, counts = np.unique(pairs[:, 0], return_counts=True)
    return numbers[counts > 1]


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
    """Fold of each group, given its images a class and in all (last column); groups come in the order of dealing."""
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
