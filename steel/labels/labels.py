"""Images and their masks, whatever form the user's annotations have."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from steel.errors import InputError
from steel.images.listing import ImageRecord, image_stem, list_images
from steel.labels.annotation_csv import load_csv
from steel.labels.classes import MAX_CLASSES, parse_class_names
from steel.labels.mask_folder import load_mask_folder
from steel.validation_errors import Issue, raise_issues

__all__ = ["ImageRecord", "Labels", "load_labels"]


class MaskSource(Protocol):
    """Where the masks of images come from."""

    @property
    def ignore(self) -> bool:
        """Whether some pixels may be without a truth."""

    def class_ids(self, image_id: str) -> frozenset[int] | None:
        """The image's classes, from 1; None when only its masks can tell."""

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """Masks (height, width) of uint8 0/1 by class; under 0 the ignored pixels. Absent classes are left out."""

    def subset(self, image_ids: Collection[str]) -> "MaskSource":
        """The same for some of the images."""


@dataclass(frozen=True)
class Labels:
    """The images of a folder, the classes, and the way to each mask. Small enough to be sent to workers."""

    class_names: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    """Sorted by image id; every image of the folder, clean ones too."""
    source: MaskSource

    @property
    def ignore(self) -> bool:
        """Whether some pixels may be without a truth; they are marked in the top bit of a bitmask."""
        return self.source.ignore

    @property
    def bitmask_dtype(self) -> np.dtype:
        """uint8 as long as it has room for the classes (and for the ignored pixels), else uint16."""
        return np.dtype(np.uint8 if len(self.class_names) + self.ignore <= 8 else np.uint16)

    @property
    def ignore_bit(self) -> int | None:
        """The bit of ignored pixels: 7 of uint8, 15 of uint16; None when there cannot be any."""
        return 8 * self.bitmask_dtype.itemsize - 1 if self.ignore else None

    def bitmask(self, image_id: str, height: int, width: int) -> np.ndarray:
        """The masks of an image in one array.

        Args:
            image_id: One of `images`.
            height: Of the image, in pixels.
            width: Likewise.

        Returns:
            (height, width) of `bitmask_dtype`: bit k is class k + 1, `ignore_bit` the ignored pixels.

        Raises:
            ValidationErrors: all that is wrong with the masks of this image.
        """
        kind = self.bitmask_dtype.type
        bitmask = np.zeros((height, width), kind)
        for class_id, plane in self.source.planes(image_id, height, width).items():
            bit = class_id - 1 if class_id else self.ignore_bit
            bitmask |= plane.astype(kind, copy=False) << kind(bit)
        return bitmask

    def class_ids(self, image_id: str) -> frozenset[int] | None:
        """The image's classes, from 1; None when only its masks can tell."""
        return self.source.class_ids(image_id)

    def subset(self, image_ids: Collection[str]) -> "Labels":
        """The same for some of the images: what a worker needs for its share."""
        wanted = set(image_ids)
        images = tuple(record for record in self.images if record.image_id in wanted)
        return Labels(self.class_names, images, self.source.subset(wanted))


def load_labels(
    images: str | os.PathLike[str],
    *,
    annotations: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    ignore_value: int | None = None,
    missing_mask: Literal["error", "clean"] = "error",
    mask_threshold: float | None = None,
) -> Labels:
    """Find the images of a folder and match them with their annotations.

    Pixels are not read here: whether a mask is sound shows in `Labels.bitmask`.

    Args:
        images: Folder of images, a path or fsspec URL.
        annotations: CSV file with `ImageId,ClassId,EncodedPixels` or `ImageId_ClassId,EncodedPixels`; images without a
            row are clean. Either this or `masks`.
        masks: Folder of mask images: label maps, 0/255 masks, or a subfolder a class.
        class_names: Names of the classes, for the ids 1, 2, ... or, written `10=name`, for others. Found in the
            annotations when None.
        ignore_value: Pixel value of masks that means: not known.
        missing_mask: What an image without any mask in `masks` is.
        mask_threshold: Masks are of one class a file, and values from here up are inside; when None, they hold labels.

    Raises:
        ValidationErrors: everything that does not match, at once, with counts and the first few names.
        InputError: a folder or file that is not there, or options that contradict each other.
    """
    if (annotations is None) == (masks is None):
        raise InputError("give either a CSV file of annotations or a folder of masks")
    if ignore_value is not None and (masks is None or ignore_value == 0):
        raise InputError("an ignored value needs a folder of masks, and cannot be 0, the background")
    if mask_threshold is not None and masks is None:
        raise InputError("--mask-threshold needs a folder of masks (--masks)")
    classes = parse_class_names(class_names) if class_names is not None else None
    records = list_images(os.fspath(images), without=os.fspath(masks) if masks is not None else None)
    ids = {record.image_id: None for record in records}
    _refuse_same_stems(ids)
    source: MaskSource
    if annotations is not None:
        classes, source = load_csv(os.fspath(annotations), ids, classes)
    else:
        assert masks is not None
        classes, source = load_mask_folder(
            os.fspath(masks),
            ids,
            classes,
            ignore_value=ignore_value,
            missing_is_clean=missing_mask == "clean",
            threshold=mask_threshold,
        )
    if len(classes) + source.ignore > MAX_CLASSES:
        raise InputError(
            f"{len(classes)} classes and ignored pixels: at most {MAX_CLASSES - 1} classes are possible then"
        )
    return Labels(classes.names, records, source)


def _refuse_same_stems(image_ids: Collection[str]) -> None:
    """Two images that differ in their extension alone would share a mask and a key."""
    count = Counter(map(image_stem, image_ids))
    raise_issues(Issue("images that differ in their extension alone", i) for i in image_ids if count[image_stem(i)] > 1)
