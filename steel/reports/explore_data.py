"""What is explored: a shard folder, or images with labels of any format; predictions are labels, too."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steel import storage
from steel.errors import InputError, told_url
from steel.images.bitmask import mask_areas
from steel.images.exif import UPRIGHT, exif_orientation
from steel.images.geometry import resize_image
from steel.labels.labels import Labels, read_image
from steel.labels.sizes import exif_named
from steel.plain import parse_json
from steel.shards.format import DUPLICATES_NAME
from steel.shards.reader import ShardReader
from steel.validation_errors import ValidationErrors, raise_all

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class ExploredData:
    """N images of C classes."""

    where: str
    class_names: tuple[str, ...]
    image_ids: list[str]
    sizes: np.ndarray
    """(N, 2) int, height and width of each original."""
    areas: np.ndarray
    """(N, C) int, pixels of each class at the original size."""
    group: np.ndarray
    """(N,) int, shared by duplicates: near ones in shards, files with the same bytes elsewhere."""
    fold: np.ndarray | None
    """(N,) int; None before the images are dealt to folds."""
    channels: int
    resized: bool
    """Whether the stored images are not of the original size."""
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    """A row's image, (H, W) or (H, W, 3) uint8, and its bitmask (H, W), at the original size."""
    are_duplicates_sought: bool = True
    """Whether `group` says of any two images that they are duplicates."""
    turned: tuple[int, ...] = ()
    """Rows of images that EXIF asks viewers to turn; of shards it is data_prep that tells them."""
    are_gray: tuple[bool, ...] = ()
    """(N,); of shards, whose index does not know it, none: there it is data_prep that tells of a set with both."""

    def __len__(self) -> int:
        """N."""
        return len(self.image_ids)

    @property
    def has(self) -> np.ndarray:
        """(N, C) bool, which classes an image has."""
        return self.areas > 0


def data_of_shards(shards: str | os.PathLike[str]) -> ExploredData:
    """A shard folder, by path or URL.

    Raises:
        InputError: no finished shard folder.
    """
    reader = ShardReader(shards)
    index = reader.index

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        sample = reader.read(row, original_mask=True)
        return resize_image(sample.image, sample.bitmask.shape), sample.bitmask

    sizes, stored = (
        np.stack([np.asarray(getattr(index, name)) for name in names], axis=1)
        for names in (("original_height", "original_width"), ("height", "width"))
    )
    return ExploredData(
        where=told_url(shards),
        class_names=reader.manifest.class_names,
        image_ids=[index.image_id(row) for row in range(len(index))],
        sizes=sizes,
        areas=np.asarray(index.areas),
        group=_duplicates(reader),
        fold=np.asarray(index.fold),
        channels=reader.manifest.channels,
        resized=bool((sizes != stored).any()),
        read=read,
        are_duplicates_sought=bool(reader.manifest.options.get("group_duplicates", True)),
    )


def _duplicates(reader: ShardReader) -> np.ndarray:
    """(N,) int, shared by duplicates: of the index, or where its groups are also what a user says, of the report."""
    if reader.manifest.options.get("groups") is None:
        return np.asarray(reader.index.group)
    path, numbers = storage.join(reader.root, DUPLICATES_NAME), np.arange(len(reader.index))
    if storage.exists(path):
        rows = {reader.index.image_id(row): row for row in range(len(reader.index))}
        try:
            for names in parse_json(storage.read_bytes(path))["groups"]:
                numbers[[rows[name] for name in names]] = rows[names[0]]
        except (InputError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{told_url(path)}: damaged, or of another set; make the shards again") from error
    return numbers


def data_of_labels(labels: Labels, where: str, on_image: Progress = lambda done, total: None) -> ExploredData:
    """Images and labels before sharding: every one is read once for its size, its areas and its bytes' digest.

    Images of more than 8 bits are shown from black to the brightest pixel of them all: each by its own would look well
    exposed, whatever it is.

    Args:
        labels: matched with their images.
        where: what the page says of their place.
        on_image: called with (images read, images in all).

    Raises:
        ValidationErrors: images or masks that cannot be used, all of them.
        ResourceError: the disk or store of the images fails.
    """
    num_classes = len(labels.class_names)
    sizes, areas, digests, brightest = [], [], [], 1
    turned, are_gray, errors = list[int](), list[bool](), list[ValidationErrors]()
    for number, record in enumerate(labels.images, start=1):
        try:
            data, image = read_image(record)
            with exif_named(data):
                bitmask = labels.bitmask(record.image_id, *image.shape[:2])
        except ValidationErrors as error:
            errors.append(error)
            continue
        are_gray.append(image.ndim == 2 or bool((image == image[..., :1]).all()))
        brightest = max(brightest, int(image.max()) if image.dtype != np.uint8 else 1)
        sizes.append(image.shape[:2])
        areas.append(mask_areas(bitmask, num_classes))
        if exif_orientation(data) != UPRIGHT:
            turned.append(number - 1)
        digests.append(hashlib.sha256(data).hexdigest())
        on_image(number, len(labels.images))
    raise_all(errors)

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        record = labels.images[row]
        _, image = read_image(record)
        if image.dtype != np.uint8:
            image = (255.0 * image / brightest).astype(np.uint8)
        return image, labels.bitmask(record.image_id, *image.shape[:2])

    return ExploredData(
        where=where,
        class_names=labels.class_names,
        image_ids=[record.image_id for record in labels.images],
        sizes=np.array(sizes).reshape(-1, 2),
        areas=np.array(areas, np.int64).reshape(-1, num_classes),
        group=np.unique(digests, return_inverse=True)[1],
        fold=None,
        channels=1 if all(are_gray) else 3,
        resized=False,
        read=read,
        turned=tuple(turned),
        are_gray=tuple(are_gray),
    )
