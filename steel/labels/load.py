"""Labels of any format, matched with the images of a folder."""

import os
from collections.abc import Sequence
from typing import Literal

from steel import storage
from steel.errors import InputError
from steel.images.listing import image_stem, lies_in, list_images
from steel.labels.classes import MAX_CLASSES, parse_class_names
from steel.labels.formats import FORMATS
from steel.labels.image_index import ImageIndex
from steel.labels.labels import Labels, refuse_same_stems
from steel.labels.options import ReadOptions
from steel.labels.place import Place, look_at

AUTO = "auto"
"""Names no format: it is found."""


def load_labels(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    format: str = AUTO,
    class_names: Sequence[str] | None = None,
    ignore_value: int | None = None,
    missing_mask: Literal["error", "clean"] = "error",
    mask_threshold: float | None = None,
    resize_masks: bool = False,
    any_case: bool = False,
    stray_labels: Literal["error", "skip"] = "error",
) -> Labels:
    """Find the images of a folder and match them with their labels.

    Pixels are not read here: whether a mask is sound shows in `Labels.bitmask`.

    Args:
        images: Folder of images, a path or fsspec URL.
        labels: File or folder of labels, likewise.
        format: One of `FORMATS`, or `auto`.
        class_names: Names of the classes, for the ids 1, 2, ... or, written `10=name`, for others, or `#ff0000=name`
            for colours. Found in the labels when None.
        ignore_value: Pixel value of masks that means: not known.
        missing_mask: What an image without any label is.
        mask_threshold: Masks are of one class a file, and values from here up are inside; when None, they hold labels.
        resize_masks: Labels made at another size of an image are brought to its own.
        any_case: Labels may name their image in other capitals.
        stray_labels: What becomes of labels of other images or classes, and of shapes that cover no pixel.

    Raises:
        ValidationErrors: everything that does not match, at once, with counts and the first few names.
        InputError: a folder or file that is not there, or options that contradict each other.
    """
    images, url = os.fspath(images), os.fspath(labels)
    options = ReadOptions(
        classes=parse_class_names(class_names) if class_names is not None else None,
        ignore_value=ignore_value,
        mask_threshold=mask_threshold,
        missing_is_clean=missing_mask == "clean",
        resize_masks=resize_masks,
        any_case=any_case,
        skip_stray=stray_labels == "skip",
    )
    is_below = lies_in(url, images) and not lies_in(images, url)
    records = list_images(images, without=url if is_below else None)
    place = look_at(url, images)
    index = ImageIndex([record.image_id for record in records])
    name = _choose_format(format, place, index)
    _refuse_unfit(name, place, options)
    if FORMATS[name].is_pixels and place.has_images:
        masks = {storage.join(images, file.path) for file in place.masks}
        records = tuple(record for record in records if record.url not in masks)
        index = ImageIndex([record.image_id for record in records])
    refuse_same_stems(records, image_stem)
    found = FORMATS[name].read(place, index, options)
    if len(found.classes) + found.source.ignore > MAX_CLASSES:
        limit = f"at most {MAX_CLASSES - 1} classes are possible then"
        raise InputError(f"{len(found.classes)} classes and ignored pixels: {limit}")
    return Labels(found.classes.names, records, found.source, found.left_out)


def _choose_format(wanted: str, place: Place, images: ImageIndex) -> str:
    """The name of the format of what lies somewhere: the wanted one, or the one that is recognised.

    Raises:
        InputError: none that is known.
    """
    if wanted in FORMATS:
        return wanted
    if wanted != AUTO:
        raise InputError(f"--labels-format {wanted}: none that is known ({', '.join(FORMATS)})")
    for name, form in sorted(FORMATS.items(), key=lambda entry: entry[1].is_pixels):  # any image may be a mask
        if form.recognise(place, images):
            return name
    raise InputError(f"{place.url}: no labels that are known there; --labels-format says which of {', '.join(FORMATS)}")


def _refuse_unfit(name: str, place: Place, options: ReadOptions) -> None:
    """Raises InputError for a file where masks lie in folders, and for options that mean nothing but for masks."""
    if FORMATS[name].is_pixels:
        if place.is_file:
            raise InputError(f"{place.url}: a file; --labels-format {name} needs a folder")
        return
    given = {
        "--ignore-value": options.ignore_value is not None,
        "--mask-threshold": options.mask_threshold is not None,
        "--class-names with colours": options.classes is not None and options.classes.given == "colour",
    }
    for option, is_given in given.items():
        if is_given:
            raise InputError(f"{option} is for masks, not for labels in the format {name}")
