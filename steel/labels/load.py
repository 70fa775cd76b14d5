"""Labels of any format, matched with the images of a folder."""

import os

from steel import storage
from steel.errors import InputError
from steel.images.listing import IMAGE_SUFFIXES, ImageRecord, image_stem, lies_in, list_images
from steel.labels.classes import MAX_CLASSES
from steel.labels.coco import AS_LIST
from steel.labels.formats import FORMATS
from steel.labels.image_index import ImageIndex
from steel.labels.labels import Labels, refuse_same_stems
from steel.labels.options import AS_FOUND, AUTO, LabelOptions
from steel.labels.place import Place, look_at


def load_labels(
    images: str | os.PathLike[str], labels: str | os.PathLike[str], options: LabelOptions = AS_FOUND
) -> Labels:
    """Find the images of a folder and match them with their labels.

    Pixels are not read here: whether a mask is sound shows in `Labels.bitmask`.

    Args:
        images: Folder of images, a path or fsspec URL.
        labels: File or folder of labels, likewise.
        options: How the labels are to be understood.

    Raises:
        ValidationErrors: everything that does not match, at once, with counts and the first few names.
        InputError: a folder or file that is not there, or options that contradict each other.
    """
    images, url = os.fspath(images), os.fspath(labels)
    records = list_images(images, tiff_pages=options.tiff_pages)
    place = look_at(url, images)
    outside = _outside_of(url, images, records)
    index = _index_of(records, images)
    index_outside = index if outside is records else _index_of(outside, images)
    name = _choose_format(options.format, place, index, index_outside)
    _refuse_unfit(name, place, options)
    if FORMATS[name].is_pixels:
        records, index = outside, index_outside
        if not records:
            raise InputError(f"{images}: no images there but those in {url}, which are taken for masks")
        if place.has_images:
            masks = {storage.join(images, file.path) for file in place.masks}
            records = tuple(record for record in records if record.url not in masks)
            index = _index_of(records, images)
    refuse_same_stems(records, image_stem)
    found = FORMATS[name].read(place, index, options)
    if len(found.classes) + found.source.ignore > MAX_CLASSES:
        limit = f"at most {MAX_CLASSES - 1} classes are possible then"
        raise InputError(f"{len(found.classes)} classes and ignored pixels: {limit}")
    suffixes = IMAGE_SUFFIXES if FORMATS[name].is_pixels else FORMATS[name].suffixes or None
    return Labels(found.classes.names, records, name, found.source, found.left_out, suffixes)


def _outside_of(url: str, images: str, records: tuple[ImageRecord, ...]) -> tuple[ImageRecord, ...]:
    """The images that do not lie in a folder of labels below their own, where they would be masks."""
    if not lies_in(url, images) or lies_in(images, url):
        return records
    inner = storage.full_path(url).removeprefix(storage.full_path(images))
    return tuple(record for record in records if not record.image_id.startswith(inner))


def _index_of(records: tuple[ImageRecord, ...], folder: str) -> ImageIndex:
    return ImageIndex([record.image_id for record in records], folder.rstrip("/").rpartition("/")[2])


def _choose_format(wanted: str, place: Place, images: ImageIndex, images_outside: ImageIndex) -> str:
    """The name of the format of what lies somewhere: the wanted one, or the one that is recognised.

    Args:
        wanted: A format, or `auto`.
        place: Of the labels.
        images: Of the folder of images.
        images_outside: Those that do not lie in the folder of labels, where masks would.

    Raises:
        InputError: none that is known.
    """
    if wanted in FORMATS:
        return wanted
    if wanted != AUTO:
        raise InputError(f"--labels-format {wanted}: none that is known ({', '.join(FORMATS)})")
    for name, form in sorted(FORMATS.items(), key=lambda entry: entry[1].is_pixels):  # any image may be a mask
        if form.recognise(place, images_outside if form.is_pixels else images):
            return name
    unknown = f"no labels that are known there; --labels-format says which of {', '.join(FORMATS)}"
    raise InputError(f"{place.url}: {_other_tools(place) or unknown}")


def _other_tools(place: Place) -> str:
    """What JSON of another kind is, and what to export instead; empty where that is not known."""
    keys = place.json_keys()
    if keys & {"_via_settings", "_via_img_metadata", "region_attributes", "shape_attributes"}:
        return "JSON of the VGG Image Annotator (VIA), which is not read; export it there in COCO's format"
    if {"image_id", "category_id"} <= keys:
        return f"a list of COCO results, without the images and categories that they are of; {AS_LIST}"
    return ""


def _refuse_unfit(name: str, place: Place, options: LabelOptions) -> None:
    """Raises InputError for a file where masks lie in folders, for a place without any file of the format, and for
    options that mean nothing but for masks."""
    if FORMATS[name].is_pixels:
        if place.is_file:
            raise InputError(f"{place.url}: a file; --labels-format {name} needs a folder")
        return
    suffixes = FORMATS[name].suffixes
    if suffixes and not place.ending(*suffixes):
        raise InputError(f"{place.url}: --labels-format {name} needs a file that ends in {' or '.join(suffixes)}")
    given = {
        "--ignore-value": options.ignore_value is not None,
        "--mask-threshold": options.mask_threshold is not None,
        "--class-names with colours": options.classes is not None and options.classes.given == "colour",
    }
    for option, is_given in given.items():
        if is_given:
            raise InputError(f"{option} is for masks, not for labels in the format {name}")
