"""Every format of labels by name: how it is recognised, read and written. The one place where a format registers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steel.labels import coco, cvat, kaggle_labels, labelme, mask_folder, mask_writer, yolo
from steel.labels.image_index import ImageIndex
from steel.labels.labels import LabelledImage
from steel.labels.options import FoundLabels, LabelOptions
from steel.labels.place import Place

Writer = Callable[[str, tuple[str, ...], Iterable[LabelledImage]], None]
"""Writes the classes of these names and the masks of these images to a file, or into an empty local folder."""


@dataclass(frozen=True)
class LabelFormat:
    """One format."""

    meaning: str
    """A line that says what it is, for `--help`, refusals and the docs."""
    recognise: Callable[[Place, ImageIndex], bool]
    """Whether a place looks like this format; asked in the order of `FORMATS`, mask images last."""
    read: Callable[[Place, ImageIndex, LabelOptions], FoundLabels]
    """Match the labels at a place with the images. Raises InputError, and ValidationErrors for many mistakes."""
    write: Writer | None = None
    writes_folder: bool = False
    """What is written is a folder, not a file."""
    is_pixels: bool = False
    """Labels are mask images: they may lie among the images, and have values to ignore or to compare."""
    suffixes: tuple[str, ...] = ()
    """Of the files that it is read from, one of which must be there; empty for any."""


def _is_coco(place: Place, images: ImageIndex) -> bool:
    """By its keys; but beside the text files of YOLO, Label Studio leaves a `notes.json` with `categories` alone."""
    keys = place.json_keys() & coco.KEYS
    return bool(keys) and not (keys == {"categories"} and yolo.looks_like_yolo(place, images))


FORMATS: dict[str, LabelFormat] = {
    "kaggle": LabelFormat(
        "a CSV file of run lengths: ImageId,ClassId,EncodedPixels or ImageId_ClassId,EncodedPixels",
        lambda place, images: place.is_file and bool(place.ending(".csv")),
        lambda place, images, options: kaggle_labels.read_kaggle_labels(place.url, images, options),
        kaggle_labels.write_kaggle_labels,
    ),
    "coco": LabelFormat(
        "COCO's JSON: polygons, boxes, and run lengths compressed or not",
        _is_coco,
        lambda place, images, options: coco.read_coco(place.ending(".json"), place.url, images, options),
        coco.write_coco,
        suffixes=(".json",),
    ),
    "labelme": LabelFormat(
        "LabelMe's JSON, a file per image: polygons, rectangles, circles, masks",
        lambda place, images: place.json_keys() & labelme.KEYS != set(),
        labelme.read_labelme,
        labelme.write_labelme,
        writes_folder=True,
        suffixes=(".json",),
    ),
    "cvat": LabelFormat(
        "CVAT's XML for images: polygons, boxes, ellipses, masks, tags",
        lambda place, images: bool(place.ending(".xml")),
        lambda place, images, options: cvat.read_cvat(place.ending(".xml"), place.url, images, options),
        cvat.write_cvat,
        suffixes=(".xml",),
    ),
    "yolo": LabelFormat(
        "YOLO's segmentation text, a file per image, with its data.yaml",
        yolo.looks_like_yolo,
        yolo.read_yolo,
        yolo.write_yolo,
        writes_folder=True,
        suffixes=(".txt", ".yaml", ".yml"),
    ),
    "class-folders": LabelFormat(
        "images in a folder per class, each with a mask of one class (MVTec AD)",
        lambda place, images: mask_folder.looks_like_class_folders(place.masks, images),
        lambda place, images, options: mask_folder.read_class_folders(place.url, images, options, place.masks),
        is_pixels=True,
    ),
    "masks": LabelFormat(
        "mask images: label maps, 0/255 masks, or a subfolder per class",
        lambda place, images: bool(place.masks),
        lambda place, images, options: mask_folder.read_mask_folder(place.url, images, options, place.masks),
        mask_writer.write_mask_folder,
        writes_folder=True,
        is_pixels=True,
    ),
}
"""By name: the first that recognises a place reads it, those of mask images last. Extensions add to it."""
