"""Labels as run-length text in one of Kaggle's CSV files, matched with the images that exist."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from steel.errors import InputError
from steel.labels.classes import MAX_CLASSES, ClassTable, number_classes
from steel.labels.image_index import ImageIndex, Matched
from steel.labels.kaggle_csv import KaggleRow, read_kaggle_csv
from steel.labels.labels import LabelledImage
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.rle import decode_rle
from steel.labels.stray import NO_IMAGE, UNKNOWN_CLASS, settle
from steel.labels.submission import write_submission
from steel.validation_errors import Issue, ValidationErrors, raise_issues


@dataclass(frozen=True)
class RunLengthMasks:
    """The masks of a CSV file, as text until they are asked for."""

    num_classes: int
    url: str
    """Of the file, for errors."""
    rles: dict[str, dict[int, KaggleRow]]
    """Image id -> class (from 1) -> the row with its run-length text, defects only."""
    ignore: bool = False

    def class_ids(self, image_id: str) -> frozenset[int]:
        """The image's classes."""
        return frozenset(self.rles.get(image_id, ()))

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """The masks (height, width) of uint8 0/1 of the classes that the image has.

        Raises:
            ValidationErrors: every mask of this image that is malformed or does not fit its size.
        """
        planes, issues = {}, []
        for class_id, row in self.rles.get(image_id, {}).items():
            try:
                planes[class_id] = decode_rle(row.rle, height, width)
            except InputError as error:
                where = f"{row.name} ({self.url}, line {row.line}: {error})"
                issues.append(Issue("run lengths that are none or do not fit their image", where))
        if issues:
            raise ValidationErrors(issues)
        return planes

    def subset(self, image_ids: Collection[str]) -> "RunLengthMasks":
        """The masks of these images alone."""
        return RunLengthMasks(self.num_classes, self.url, {i: self.rles[i] for i in image_ids if i in self.rles})


def read_kaggle_labels(url: str, images: ImageIndex, options: LabelOptions) -> FoundLabels:
    """Read and check a CSV file of masks against the images that exist; those without a row are clean.

    Args:
        url: Path or URL of the file.
        images: Of the folder.
        options: The classes are 1 to the largest id in the file where it names none.

    Raises:
        ValidationErrors: unknown class ids, ids without an image, duplicate and malformed rows, all at once.
        InputError: no such file, or not one of the two forms.
    """
    found = read_kaggle_csv(url)
    issues = list(found.issues)
    classes = options.classes
    if classes is None:
        classes = _number_ids(url, {row.class_id for row in found.rows if row.class_id is not None}, issues)
    class_of: dict[int | None, int] = {value: k for k, value in enumerate(classes.values, 1)}
    rles: dict[str, dict[int, KaggleRow]] = {}
    seen: dict[tuple[str, int | None], int] = {}
    matches = _match_ids(dict.fromkeys(row.image_id for row in found.rows), images, options)
    unmatched: dict[str, None] = {}
    unusable: dict[str, Issue] = {}
    for row in found.rows:
        class_id = class_of.get(row.class_id)
        if class_id is None and row.class_id is not None:
            issues.append(Issue(UNKNOWN_CLASS, f"{row.name} (line {row.line})"))
            continue
        image_id, issue = matches[row.image_id]
        if issue is not None:
            unusable[row.image_id] = issue
        elif image_id is None:
            unmatched[row.image_id] = None
        first = seen.setdefault((image_id or row.image_id, class_id), row.line)
        if first != row.line:
            issues.append(Issue("duplicate rows", f"{row.name} (lines {first} and {row.line})"))
        elif row.rle and class_id is not None and image_id is not None:
            rles.setdefault(image_id, {})[class_id] = row
    issues += [*unusable.values(), *(Issue(NO_IMAGE, name) for name in unmatched)]
    where = f"in {url}"
    if unmatched and len(unmatched) == len(matches):
        raise_issues(issues, f"{where}; no id matches an image: {_advice(unmatched, images)}")
    left_out = settle(
        issues, where, options, [f"{v} ({n})" for v, n in zip(classes.values, classes.names, strict=True)]
    )
    return FoundLabels(classes, RunLengthMasks(len(classes), url, rles), left_out)


def _match_ids(ids: Collection[str], images: ImageIndex, options: LabelOptions) -> dict[str, Matched]:
    """The image that each id of a file means, once an id: a file may have a million rows.

    An id that is an image's whole path comes first, and no other id means that image. Where there is such a one, paths
    in the file begin where those of the images do: one in a folder that is not there is of no image, though an image
    elsewhere may have its name, which without a row would be clean. They may also begin with the name of the folder of
    images: rows of `line1/a.jpg` and `line2/b.jpg` with the images of `line1` alone.
    """
    paths = {name: name.replace("\\", "/") for name in ids}
    exact = {name: images.of_path(name) or images.of_path(path) for name, path in paths.items()}
    taken = set(exact.values()) - {None}
    below = {name: images.below_folder(path) for name, path in paths.items() if exact[name] is None}
    matches = {name: Matched(exact[name]) for name in ids}
    matches |= {name: Matched(found) for name, path in below.items() if (found := images.of_path(path)) not in taken}
    fit = {matched.image_id for matched in matches.values()} - {None}
    spoken_of: set[str] = set()
    for name in (name for name, matched in matches.items() if matched.image_id is None):
        is_whole = bool(fit) and "/" in below[name]
        near = (
            images.of_path_but_ending(below[name], options, name, "labels")
            if is_whole
            else images.of_file_name(name, options, "labels")
        )
        if near.image_id in spoken_of:
            near = Matched(None, Issue("second labels for one image", f"{name} (for {near.image_id})"))
        elif near.image_id is not None:
            spoken_of.add(near.image_id)
        matches[name] = Matched(None) if near.image_id in fit else near
    return matches


def _advice(unmatched: Collection[str], images: ImageIndex) -> str:
    """What may be wrong where none of a file's ids is an image's."""
    odd = next((name for name in unmatched if images.has_stem(name.rpartition(".")[0])), None)
    if odd is None:
        return "is this the right image folder?"
    return f"their endings are none of image files, as in {odd}; leave them out"


def _number_ids(url: str, ids: set[int], issues: list[Issue]) -> ClassTable:
    """The classes that a file's ids stand for, none of them named."""
    if max(ids, default=0) > MAX_CLASSES:
        raise InputError(
            f"{url}: class ids go up to {max(ids)}, but at most {MAX_CLASSES} classes are possible; "
            f"say what each id means (--class-names {max(ids)}=...)"
        )
    if not ids - {0}:
        raise_issues(issues, f"in {url}")
        if ids:
            raise InputError(f"{url}: all class ids are 0, and classes count from 1; name it with --class-names 0=...")
        raise InputError(f"{url}: no classes: nothing is marked as defective; name the classes with --class-names")
    return number_classes(ids - {0})


def write_kaggle_labels(url: str, class_names: tuple[str, ...], images: Iterable[LabelledImage]) -> None:
    """Write a CSV file with a row for every class of every image, so that reading it finds as many classes.

    Args:
        url: File to write, a path or URL.
        class_names: Their numbers, from 1, are all that the file keeps.
        images: In the order of the file.
    """
    masks = ((image.image_id, image.masks(len(class_names))) for image in images)
    write_submission(url, masks, format="ImageId,ClassId")
