"""Which images belong together, and which fold each is in: stratified, published or given by the user."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from steel.errors import InputError
from steel.folds import MAX_FOLDS
from steel.labels.csv_file import read_table, whole_number
from steel.labels.image_index import composed
from steel.validation_errors import Issue, raise_issues

_CLASSIC_VALIDATION, _CLASSIC_TEST, _CLASSIC_TRAIN = 0, 1, 2
_CLASSIC_RAREST_FIRST = (2, 4, 1, 3)


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
        ValidationErrors: rows that are malformed or twice there, ids without an image, images without a fold.
        InputError: no such file, or another header.
    """
    table = read_table(url, ("image", "fold"))
    wanted = set(image_ids)
    spell = as_spelled(image_ids)
    folds: dict[str, int] = {}
    issues = list(table.issues)
    for line, (name, text) in table.rows:
        image_id, fold = spell(name), whole_number(text)
        if fold is None or fold >= MAX_FOLDS:
            issues.append(Issue("rows without a fold number", f"line {line} ({image_id},{text})"[:60]))
        elif image_id in folds:
            issues.append(Issue("duplicate rows", f"{image_id} (line {line})"))
        elif image_id not in wanted:
            issues.append(Issue("ids without an image", image_id))
        folds.setdefault(image_id, fold or 0)
    issues += [Issue("images without a fold", image_id) for image_id in image_ids if image_id not in folds]
    raise_issues(issues, f"in {url}")
    return np.array([folds[image_id] for image_id in image_ids], np.int16)


def read_groups_file(url: str, image_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The images that belong together by a CSV file with the header `image,group`: of one coil, piece or place.

    Args:
        url: Path or URL of the file.
        image_ids: (N,) all images; one that the file does not name is a group of its own.

    Returns:
        (N,) int64 group numbers, counted from 0.

    Raises:
        InputError: of `read_group_names`.
    """
    return number_groups(image_ids, read_group_names(url, set(image_ids)))


def read_group_names(url: str, there: Collection[str] | None = None) -> dict[str, str]:
    """The groups' names, by image, in a CSV file with the header `image,group`.

    Args:
        url: Path or URL of the file.
        there: All images; None lets the file name any.

    Raises:
        ValidationErrors: rows that are malformed or twice there, rows without a group, ids without an image.
        InputError: no such file, another header, or nothing below it.
    """
    table = read_table(url, ("image", "group"))
    if not table.rows and not table.issues:
        raise InputError(f"{url}: names no image")
    names: dict[str, str] = {}
    spell = as_spelled(there or ())
    issues = list(table.issues)
    for line, (image, text) in table.rows:
        image_id, name = spell(image), text.strip()
        if not name:
            issues.append(Issue("rows without a group", f"line {line} ({image_id},)"[:60]))
        elif image_id in names:
            issues.append(Issue("duplicate rows", f"{image_id} (line {line})"))
        elif there is not None and image_id not in there:
            issues.append(Issue("ids without an image", image_id))
        names.setdefault(image_id, name)
    raise_issues(issues, f"in {url}")
    return names


def as_spelled(there: Collection[str]) -> Callable[[str], str]:
    """What gives the one of `there` that a name means, however its accents are written, and other names as they are."""
    known = {composed(name): name for name in there} | {name: name for name in there}
    return lambda name: known.get(name) or known.get(composed(name), name)


def number_groups(image_ids: Sequence[str], names: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Group numbers (N,) of images (N,) by their groups' names, counted from 0; one without a name is alone."""
    numbers: dict[tuple[str, bool], int] = {}
    keys = [(names[image_id], True) if image_id in names else (image_id, False) for image_id in image_ids]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def straddling_groups(groups: npt.NDArray[np.integer], folds: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """The groups (sorted) whose images lie in more than one fold, as a given split may have it: those leak."""
    pairs = np.unique(np.stack([groups, folds], axis=1), axis=0)
    numbers, counts = np.unique(pairs[:, 0], return_counts=True)
    return numbers[counts > 1]
