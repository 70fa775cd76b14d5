"""Masks as image files in a folder: one label map an image, or one file a class and image.

A label map holds 0 for the background and a number a class; with a single class 255 will do for 1. Files of the other
form lie in `<class name>/<path of the image>.png`, so that classes may overlap; there 0 is outside and one other value,
whichever it is, inside. Any further value is refused by name: it may be a soft edge, or a class that was not foreseen.

Where files are of one class each and a threshold is given, every value from it up is inside and every other outside;
values need not be whole numbers then.
"""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np

from steel import storage
from steel.errors import InputError
from steel.images.decode import decode_values, to_labels
from steel.images.listing import image_stem
from steel.labels.classes import MAX_CLASSES, ClassTable, number_classes
from steel.validation_errors import Issue, ValidationErrors, raise_issues

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_LOSSY = (".jpg", ".jpeg", ".webp")
_THRESHOLD_HINT = "--mask-threshold T takes values from T up as inside"


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a folder, read when they are asked for."""

    num_classes: int
    files: dict[str, dict[int, str]]
    """Image id -> class (from 1) -> location of its mask; a label map stands under class 0. Without entry: clean."""
    value_of: dict[int, int]
    """Pixel value of a label map -> class; empty when every class has files of its own."""
    ignore_value: int | None = None
    threshold: float | None = None
    """Values from here up are inside, in files of one class each."""

    @property
    def ignore(self) -> bool:
        return self.ignore_value is not None

    def class_ids(self, image_id: str) -> frozenset[int] | None:
        """The image's classes; None when only its masks can tell."""
        return None if image_id in self.files else frozenset()

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """The masks (height, width) of uint8 0/1 of the classes that the image has; under 0 the ignored pixels.

        Raises:
            ValidationErrors: every mask of this image that is unreadable, of another size or with unknown values.
        """
        planes: dict[int, np.ndarray] = {}
        issues: list[Issue] = []
        for class_id, url in self.files.get(image_id, {}).items():
            try:
                values = read_values(url)
                _check_size(values, height, width, url)
                if self.threshold is None:
                    found = self._planes_of(class_id, labels_of(values, url), url)
                else:
                    found = self._planes_above(class_id or 1, values, self.threshold, url)
            except ValidationErrors as error:
                issues += error.issues
                continue
            for k, plane in found.items():
                planes[k] = planes[k] | plane if k in planes else plane
        if issues:
            raise ValidationErrors(issues)
        return planes

    def subset(self, image_ids: Collection[str]) -> "MaskFolder":
        return replace(self, files={i: self.files[i] for i in image_ids if i in self.files})

    def _planes_above(self, class_id: int, values: np.ndarray, threshold: float, url: str) -> dict[int, np.ndarray]:
        """The plane of a class where values reach the threshold; ignored pixels under 0."""
        undefined = np.count_nonzero(np.isnan(values))
        if undefined:
            raise ValidationErrors([Issue("masks with unusable values", f"{url} ({undefined:,} that are not numbers)")])
        inside, ignored = values >= threshold, np.zeros(values.shape, bool)
        if self.ignore_value is not None:
            ignored = values == self.ignore_value
        found = {class_id: inside & ~ignored, 0: ignored}
        return {k: plane.view(np.uint8) for k, plane in found.items() if plane.any()}

    def _planes_of(self, class_id: int, pixels: np.ndarray, url: str) -> dict[int, np.ndarray]:
        """The planes in one file of labels, by class; ignored pixels under 0."""
        values = [v for v in distinct_values(pixels) if v != 0]
        inside = [v for v in values if v != self.ignore_value]
        planes = {}
        if class_id:
            if len(inside) > 1:
                raise _unknown_values(url, inside, f"expected 0 and one other; {_THRESHOLD_HINT}")
            class_of = dict.fromkeys(inside, class_id)
        else:
            unknown = [v for v in inside if v not in self.value_of]
            if unknown:
                hint = f"; {_THRESHOLD_HINT}" if self.num_classes == 1 else ""
                raise _unknown_values(url, unknown, f"known are 0, {', '.join(map(str, self.value_of))}{hint}")
            class_of = {v: self.value_of[v] for v in inside}
            if len(set(class_of.values())) < len(class_of):
                raise _unknown_values(url, inside, "one class, but two values: is 255 the ignored one?")
        for value, k in class_of.items():
            planes[k] = (pixels == value).view(np.uint8)
        if self.ignore_value in values:
            planes[0] = (pixels == self.ignore_value).view(np.uint8)
        return planes


def load_mask_folder(
    url: str,
    image_ids: Collection[str],
    classes: ClassTable | None,
    *,
    ignore_value: int | None,
    missing_is_clean: bool,
    threshold: float | None = None,
) -> tuple[ClassTable, MaskFolder]:
    """Match the masks of a folder with the images that exist; see the module on the two forms.

    Args:
        url: Path or URL of the folder.
        image_ids: Images of the folder.
        classes: The classes and their values. When None: the names of the class folders, or the values that the label
            maps hold (all of which are read for that).
        ignore_value: Pixel value without a truth.
        missing_is_clean: An image without any mask has no defect; else that is a mistake.
        threshold: See `MaskFolder`.

    Raises:
        ValidationErrors: masks without an image, missing masks, unknown class folders, lossy files, all at once.
        InputError: no such folder, no way to tell the classes, or a threshold for label maps of several.
    """
    paths = [file.path for file in storage.list_files(url, _LOSSLESS + _LOSSY)]
    by_class = _have_class_folders(paths, image_ids)
    if by_class and classes is None:
        classes = _classes_from_folders({path.partition("/")[0] for path in paths if "/" in path})
    folders = None if classes is None or not by_class else {name: k for k, name in enumerate(classes.names, 1)}
    files, issues = _match(url, paths, image_ids, folders)
    missing = [] if missing_is_clean else [image_id for image_id in image_ids if image_id not in files]
    issues += [Issue("images without a mask", image_id) for image_id in missing]
    raise_issues(issues, f"in {url}" + ("; --missing-mask clean takes no mask for no defect" if missing else ""))
    if by_class:
        assert classes is not None
        return classes, MaskFolder(len(classes), files, {}, ignore_value, threshold)
    if threshold is not None:
        classes = classes or ClassTable(("defect",), (255,))
        if len(classes) > 1:
            raise InputError(f"--mask-threshold is for masks of one class, not for label maps of {len(classes)}")
        return classes, MaskFolder(1, files, {}, ignore_value, threshold)
    if classes is None:
        classes = _classes_from_values((file[0] for file in files.values()), ignore_value)
    value_of = {value: k for k, value in enumerate(classes.values, 1)}
    if classes.values in ((1,), (255,)):
        value_of = {1: 1, 255: 1}
    value_of = {value: k for value, k in value_of.items() if value not in (0, ignore_value)}
    if set(value_of.values()) != set(range(1, len(classes) + 1)):
        taken = "0 is the background" if ignore_value is None else f"0 is the background, {ignore_value} to be ignored"
        raise InputError(f"a class cannot have a mask value that means something else: {taken}")
    return classes, MaskFolder(len(classes), files, value_of, ignore_value)


def _have_class_folders(paths: Collection[str], image_ids: Collection[str]) -> bool:
    """Whether more masks are named as an image below their first folder than in it, whatever their capitals."""
    stems = {image_stem(image_id).casefold() for image_id in image_ids}
    names = [image_stem(path).casefold() for path in paths]
    return sum(name.partition("/")[2] in stems for name in names) > sum(name in stems for name in names)


def _match(
    url: str, paths: Iterable[str], image_ids: Collection[str], folders: dict[str, int] | None
) -> tuple[dict[str, dict[int, str]], list[Issue]]:
    """The masks of each image by class, as in `MaskFolder`, and those that are none.

    Args:
        url: Of the folder that `paths` are relative to.
        paths: Of all masks.
        image_ids: Of all images.
        folders: Class (from 1) of each first folder; None for label maps.
    """
    image_of = {image_stem(image_id): image_id for image_id in image_ids}
    in_any_case = {stem.casefold(): image_id for stem, image_id in image_of.items()}
    issues: list[Issue] = []
    files: dict[str, dict[int, str]] = {}
    for path in paths:
        stem, class_id = image_stem(path), 0 if folders is None else folders.get(path.partition("/")[0])
        stem = stem if folders is None else stem.partition("/")[2]
        image_id, near = image_of.get(stem), in_any_case.get(stem.casefold())
        if path.lower().endswith(_LOSSY):
            issues.append(Issue("masks in a lossy format", path))
        elif class_id is None:
            issues.append(Issue("masks of an unknown class", path))
        elif image_id is None and near is not None:
            files.setdefault(near, {})  # one issue is enough
            issues.append(Issue("masks named in other capitals than their image", f"{path} (for {near})"))
        elif image_id is None:
            issues.append(Issue("masks without an image", path))
        elif class_id in files.setdefault(image_id, {}):
            issues.append(Issue("second masks for one image", path))
        else:
            files[image_id][class_id] = storage.join(url, path)
    return files, issues


def read_values(url: str) -> np.ndarray:
    """The stored values (H, W) of a mask file, palette indices as they are, in the file's own type.

    Raises:
        ValidationErrors: unreadable, or in true colours.
    """
    try:
        pixels = decode_values(storage.read_bytes(url))
    except (OSError, ValueError) as error:
        raise ValidationErrors([Issue("unreadable masks", f"{url} ({error})")]) from error
    if pixels.ndim == 3:
        if pixels.shape[2] != 3 or (pixels != pixels[:, :, :1]).any():
            raise ValidationErrors([Issue("masks in true colours or with transparency", url)])
        pixels = pixels[:, :, 0]
    return pixels


def labels_of(values: np.ndarray, url: str) -> np.ndarray:
    """Stored values as uint8 or uint16.

    Raises:
        ValidationErrors: some are no labels; the message names them.
    """
    try:
        return to_labels(values)
    except ValueError as error:
        issue = Issue("masks with unusable values", f"{url} ({error}; for one class, {_THRESHOLD_HINT})")
        raise ValidationErrors([issue]) from error


def distinct_values(pixels: np.ndarray) -> list[int]:
    """The values that occur in pixels of uint8 or uint16, sorted."""
    if pixels.dtype == np.uint8:
        return [int(v) for v in np.flatnonzero(cv2.calcHist([pixels], [0], None, [256], [0, 256]))]
    return [int(v) for v in np.unique(pixels)]


def _check_size(pixels: np.ndarray, height: int, width: int, url: str) -> None:
    if pixels.shape != (height, width):
        sizes = f"{url} ({pixels.shape[0]}x{pixels.shape[1]}, its image {height}x{width})"
        raise ValidationErrors([Issue("masks of another size than their image", sizes)])


def _unknown_values(url: str, values: list[int], expected: str) -> ValidationErrors:
    some = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
    return ValidationErrors([Issue("masks with unknown values", f"{url} (values {some}; {expected})")])


def _classes_from_folders(names: Iterable[str]) -> ClassTable:
    """Class folders in the order of their names, numbers by size."""
    ordered = sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    return ClassTable(tuple(ordered), tuple(range(1, len(ordered) + 1)))


def _classes_from_values(urls: Iterable[str], ignore_value: int | None) -> ClassTable:
    """The classes that a set of label maps uses, found by reading them all."""

    def look(url: str) -> set[int] | ValidationErrors:
        try:
            return set(distinct_values(labels_of(read_values(url), url)))
        except ValidationErrors as error:
            return error

    with ThreadPoolExecutor() as threads:
        results = list(threads.map(look, urls))
    raise_issues(p for result in results if isinstance(result, ValidationErrors) for p in result.issues)
    found: set[int] = set().union(*(result for result in results if isinstance(result, set)))
    values = found - {0, ignore_value}
    if values == {255}:
        return ClassTable(("defect",), (255,))
    if 255 in values:
        raise InputError(
            f"the masks hold {len(values)} values besides 0, 255 among them: ignore it (--ignore-value 255), "
            "say what the values mean (--class-names 1=...,255=...), or, for one class with soft edges, "
            + _THRESHOLD_HINT
        )
    if len(values) > MAX_CLASSES and max(values) > MAX_CLASSES:
        raise InputError(
            f"the masks hold {len(values)} values besides 0, at most {MAX_CLASSES} classes are possible: "
            f"are these label maps? For one class with soft edges, {_THRESHOLD_HINT}"
        )
    return number_classes(values)
