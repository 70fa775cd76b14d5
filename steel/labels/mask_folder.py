"""Masks as image files in a folder: one label map per image, or one file per class and image.

Files of one class lie in `<class name>/<path of the image>.png`, so that classes may overlap. Where images themselves
lie in a folder per class (`crack/000.png`, as ImageNet and MVTec AD have it), their masks are of that class. Masks may
lie in a folder of their own or among the images, and may have a suffix that their images lack (`000_mask.png`).
"""

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from steel.errors import InputError
from steel.labels.classes import MAX_CLASSES, ClassTable, number_classes
from steel.labels.image_index import ImageIndex, composed
from steel.labels.mask_names import have_class_folders, match_masks
from steel.labels.mask_values import THRESHOLD_HINT, MaskCode, distinct_values, labels_of, read_values
from steel.labels.options import FoundLabels, LabelOptions
from steel.storage import FileInfo
from steel.validation_errors import Issue, ValidationErrors, raise_issues

CLEAN_FOLDERS = ("good", "ok", "normal", "clean", "free", "defect_free", "no_defect", "non_defective")
"""How data sets with a folder per class call the one without defects."""


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a folder, read when they are asked for."""

    files: dict[str, dict[int, str]]
    """Image id -> class (from 1) -> location of its mask; a label map stands under class 0. Without entry: clean."""
    code: MaskCode

    @property
    def ignore(self) -> bool:
        """Whether some pixel value means ignored."""
        return self.code.ignore_value is not None

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
                found = self.code.planes(url, class_id, height, width)
            except ValidationErrors as error:
                issues += error.issues
                continue
            for k, plane in found.items():
                planes[k] = planes[k] | plane if k in planes else plane
        if issues:
            raise ValidationErrors(issues)
        return planes

    def subset(self, image_ids: Collection[str]) -> "MaskFolder":
        """The masks of these images alone."""
        return replace(self, files={i: self.files[i] for i in image_ids if i in self.files})


def read_mask_folder(url: str, images: ImageIndex, options: LabelOptions, masks: Sequence[FileInfo]) -> FoundLabels:
    """Match the masks of a folder with the images that exist: label maps, or a subfolder per class.

    Args:
        url: Path or URL of the folder.
        images: Of the folder of images.
        options: Classes that it does not name are those of the class folders, or the values that the label maps hold
            (all of which are read for that).
        masks: The files, relative to `url`.

    Raises:
        ValidationErrors: masks without an image, missing masks, unknown class folders, lossy files, all at once.
        InputError: no way to tell the classes, or a threshold for label maps of several.
    """
    if not have_class_folders(masks, images):
        files, left_out = match_masks(url, masks, images, options, lambda path: (0, path))
        classes, code = _code_of_label_maps(options.classes, files, options)
        return FoundLabels(classes, MaskFolder(files, code), left_out)
    classes = options.classes or _classes_from_folders(_first_folders(file.path for file in masks))
    class_of = _by_folder(classes)

    def place(path: str) -> tuple[int | None, str]:
        folder, slash, rest = path.partition("/")
        return (class_of.get(composed(folder)), rest) if slash else (None, path)

    files, left_out = match_masks(url, masks, images, options, place, known=classes.names)
    return FoundLabels(classes, MaskFolder(files, _code_of_single_classes(options)), left_out)


def read_class_folders(url: str, images: ImageIndex, options: LabelOptions, masks: Sequence[FileInfo]) -> FoundLabels:
    """Match masks of one class each, which is the first folder of their image; a folder that is called clean, is no
    class and has no mask is clean.

    Args:
        url: Path or URL of the folder of masks.
        images: Of the folder of images.
        options: With classes, a folder that is none of them may hold empty masks alone.
        masks: The files, relative to `url`.

    Raises:
        ValidationErrors, InputError: as `read_mask_folder`.
    """
    with_masks = _first_folders(file.path for file in masks)
    classes = options.classes or _classes_from_folders(with_masks)
    class_of = _by_folder(classes)
    without = _called_clean(_first_folders(images.image_ids) - with_masks - class_of.keys())
    clean = [image_id for image_id in images.image_ids if composed(image_id.partition("/")[0]) in without]

    def place(path: str) -> tuple[int | None, str]:
        return class_of.get(composed(path.partition("/")[0]), 0), path

    files, left_out = match_masks(url, masks, images, options, place, clean=clean)
    return FoundLabels(classes, MaskFolder(files, _code_of_single_classes(options)), left_out)


def looks_like_class_folders(masks: Sequence[FileInfo], images: ImageIndex) -> bool:
    """Whether images lie in a folder per class, one of them called clean and without masks, and so do the masks
    themselves: not in a further one, as of an image `crack/000.png` in `crack/crack/000.png` and `cut/crack/000.png`.
    """
    with_masks = _first_folders(file.path for file in masks)
    of_images = _first_folders(images.image_ids)
    is_of_classes = bool(_called_clean(of_images - with_masks) and with_masks) and with_masks <= of_images
    return is_of_classes and not have_class_folders(masks, images)


def _first_folders(paths: Iterable[str]) -> set[str]:
    """However their accents are written."""
    return {composed(path.partition("/")[0]) for path in paths if "/" in path}


def _by_folder(classes: ClassTable) -> dict[str, int]:
    """The number of each class, from 1, by the name of its folder."""
    return {composed(name): k for k, name in enumerate(classes.names, 1)}


def _called_clean(folders: Iterable[str]) -> set[str]:
    return {folder for folder in folders if folder.casefold() in CLEAN_FOLDERS}


def _code_of_single_classes(options: LabelOptions) -> MaskCode:
    return MaskCode({}, options.ignore_value, options.mask_threshold, resize=options.resize_masks)


def _code_of_label_maps(
    classes: ClassTable | None, files: dict[str, dict[int, str]], options: LabelOptions
) -> tuple[ClassTable, MaskCode]:
    """The classes of label maps, and what their values mean."""
    if options.mask_threshold is not None:
        classes = classes or ClassTable(("defect",), (255,))
        if len(classes) > 1:
            raise InputError(f"--mask-threshold is for masks of one class, not for label maps of {len(classes)}")
        return classes, _code_of_single_classes(options)
    if classes is None:
        classes = _classes_from_values((file[0] for file in files.values()), options.ignore_value)
    value_of = {value: k for k, value in enumerate(classes.values, 1)}
    has_colours = classes.given == "colour"
    if classes.values in ((1,), (255,)) and not has_colours:
        value_of = {1: 1, 255: 1}
    background = () if has_colours else (0,)
    value_of = {value: k for value, k in value_of.items() if value not in (*background, options.ignore_value)}
    if set(value_of.values()) != set(range(1, len(classes) + 1)):
        ignored = "" if options.ignore_value is None else f", {options.ignore_value} to be ignored"
        raise InputError(f"a class cannot have a mask value that means something else: 0 is the background{ignored}")
    resize, is_one_class = options.resize_masks, len(classes) == 1
    return classes, MaskCode(value_of, options.ignore_value, None, has_colours, resize, is_one_class)


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
            + THRESHOLD_HINT
        )
    if len(values) > MAX_CLASSES and max(values) > MAX_CLASSES:
        raise InputError(
            f"the masks hold {len(values)} values besides 0, at most {MAX_CLASSES} classes are possible: "
            f"are these label maps? For one class with soft edges, {THRESHOLD_HINT}"
        )
    return number_classes(values)
