"""Images and their masks, whatever form the user's labels have."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steel.images.bitmask import bitmask_dtype
from steel.images.decode import decode_pixels
from steel.images.listing import ImageRecord, why_unreadable
from steel.labels.options import MaskSource
from steel.validation_errors import Issue, ValidationErrors, raise_all, raise_issues


@dataclass(frozen=True)
class Labels:
    """The images of a folder, the classes, and the way to each mask. Small enough to be sent to workers."""

    class_names: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    """Sorted by image id; every image of the folder, clean ones too."""
    format: str
    """What they were read as: one of `steel.labels.formats.FORMATS`, found or asked for."""
    source: MaskSource
    left_out: tuple[str, ...] = ()
    """What was left out at the user's word, a line a kind."""
    suffixes: tuple[str, ...] | None = None
    """Of the files in a folder that can be labels; None for all."""

    @property
    def ignore(self) -> bool:
        """Whether some pixels may be without a truth; they are marked in the top bit of a bitmask."""
        return self.source.ignore

    @property
    def bitmask_dtype(self) -> np.dtype:
        """What has room for the classes and, where there may be some, for the ignored pixels."""
        return bitmask_dtype(len(self.class_names) + self.ignore)

    @property
    def ignore_bit(self) -> int | None:
        """The bit of ignored pixels: 7 of uint8, 15 of uint16; None when there cannot be any."""
        return 8 * self.bitmask_dtype.itemsize - 1 if self.ignore else None

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """The masks of an image by class, as `MaskSource` has them, but that an ignored pixel is of no class.

        The files of two classes can say both of one pixel. It is not counted in any score then; its area in the index
        and an image that has the class through it alone would say that it is.

        Raises:
            ValidationErrors: all that is wrong with the masks of this image.
        """
        planes = self.source.planes(image_id, height, width)
        if (ignored := planes.get(0)) is None or len(planes) == 1:
            return planes
        known = ignored == 0
        return {k: plane * known if k else plane for k, plane in planes.items()}

    def bitmask(self, image_id: str, height: int, width: int) -> np.ndarray:
        """The masks of an image in one array.

        Args:
            image_id: One of `images`.
            height: Of the image, in pixels.
            width: Likewise.

        Returns:
            (height, width) of `bitmask_dtype`: bit k is class k + 1, `ignore_bit` the ignored pixels.

        Raises:
            ValidationErrors: as `planes`.
        """
        kind = self.bitmask_dtype.type
        bitmask = np.zeros((height, width), kind)
        for class_id, plane in self.planes(image_id, height, width).items():
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
        return Labels(self.class_names, images, self.format, self.source.subset(wanted))


class LabelledImage(NamedTuple):
    """The masks of one image, for a writer."""

    image_id: str
    height: int
    width: int
    planes: dict[int, np.ndarray]
    """(height, width) of uint8 0/1 by class, from 1; under 0 the ignored pixels. Absent classes are left out."""

    def masks(self, num_classes: int) -> np.ndarray:
        """(num_classes, height, width) of uint8 0/1."""
        masks = np.zeros((num_classes, self.height, self.width), np.uint8)
        for class_id, plane in self.planes.items():
            if class_id:
                masks[class_id - 1] = plane
        return masks


def read_image(record: ImageRecord) -> tuple[bytes, np.ndarray]:
    """The file of an image that has labels, and its pixels, as `decode_pixels` has them.

    Raises:
        ValidationErrors: it cannot be used.
        ResourceError: its disk or store fails.
    """
    try:
        data = record.read()
        return data, decode_pixels(data)
    except (OSError, ValueError) as error:
        why = why_unreadable(record, error)
        raise ValidationErrors([Issue("unusable images", f"{record.image_id} ({why})")]) from error


def labelled_images(
    labels: Labels, on_image: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[LabelledImage]:
    """The masks of every image, at the image's size, in the order of `labels.images`.

    Raises:
        ValidationErrors: images and masks that cannot be used, all of them, when every image has been looked at; none
            is given any more after the first.
        ResourceError: the disk or store of the images fails.
    """
    errors = list[ValidationErrors]()
    for number, record in enumerate(labels.images, 1):
        try:
            height, width = read_image(record)[1].shape[:2]
            planes = labels.planes(record.image_id, height, width)
        except ValidationErrors as error:
            errors.append(error)
        else:
            if not errors:
                yield LabelledImage(record.image_id, height, width, {k: p for k, p in planes.items() if p.any()})
        on_image(number, len(labels.images))
    raise_all(errors)


def refuse_same_stems(records: Collection[ImageRecord], stem_of: Callable[[str], str]) -> None:
    """Two images that differ in their extension alone would share a mask and a key."""
    ids = [record.image_id for record in records]
    seen: dict[str, int] = {}
    for image_id in ids:
        seen[stem_of(image_id)] = seen.get(stem_of(image_id), 0) + 1
    issues = [Issue("images that differ in their extension alone", i) for i in ids if seen[stem_of(i)] > 1]
    raise_issues(issues, "rename all but one")
