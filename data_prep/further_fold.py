"""A finished set with images from elsewhere in one further fold: its own samples, shards and folds stay as they are.

Folds that validate and test keep their numbers, and the further fold is none of them. An image that is a duplicate of
any in the set is left out (`like_none`): a copy of a test image would else be trained on.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from data_prep.duplicates import group_duplicates, image_signature
from data_prep.folder import staging_folder
from data_prep.gray_levels import fold_levels, image_levels
from data_prep.manifest import Summary, group_images, save_index, save_manifest
from data_prep.options import Options
from data_prep.pixels import StoredImage, gray_of, load_image, pixel_sums
from data_prep.samples import SampleForm, add_image
from data_prep.shard_file import ShardFile
from steel import storage
from steel.arrow_file import read_batch
from steel.errors import InputError
from steel.images.bitmask import bitmask_dtype, pack_masks
from steel.images.listing import ImageRecord, why_unreadable
from steel.inference.ahead import map_ahead
from steel.shards.format import FoldLevels, Manifest, ShardInfo
from steel.shards.reader import ShardReader

Item = TypeVar("Item")
Result = TypeVar("Result")


class NewImage(NamedTuple):
    """An image for the further fold."""

    image_id: str
    """Of `FurtherFold.image_id`."""
    image: StoredImage
    bitmask: np.ndarray
    """(H, W) at the image's original size; see `FurtherFold.bitmask`."""
    signature: bytes
    """Of `FurtherFold.signatures`."""


class Groups(NamedTuple):
    """Which images belong together, of the set and new ones alike."""

    of_rows: np.ndarray
    """(N,) int, of the set's images."""
    of_new: Mapping[str, int]
    """By `NewImage.image_id`."""


@dataclass(frozen=True)
class FurtherFold:
    """What a set says of images that are to be added to it."""

    reader: ShardReader
    """Of the set, which is local."""
    ignore_bit: int
    """Of its masks and the new ones."""

    @classmethod
    def of(cls, reader: ShardReader) -> "FurtherFold":
        """A fold that some pixels may be ignored in, which the set then knows, too.

        Raises:
            InputError: masks that have no room for a bit of ignored pixels, or of another coding than our own.
        """
        manifest = reader.manifest
        if manifest.mask_coding != "bitmask":
            raise InputError(
                f"{reader.root}: its masks are coded as {manifest.mask_coding}, by another program; make the shards "
                "with `python -m data_prep` first"
            )
        bits = 8 * bitmask_dtype(manifest.num_classes).itemsize
        if manifest.ignore_bit is None and manifest.num_classes == bits:
            raise InputError(
                f"{reader.root}: its masks of {bits} bits hold {bits} classes and have no bit left for pixels that "
                "are ignored; shard the images again with masks that have an --ignore-value"
                + ("" if bits == 8 else ", and fewer classes")
            )
        fold = cls(reader, bits - 1 if manifest.ignore_bit is None else manifest.ignore_bit)
        names = [shard.name for shard in manifest.shards]
        names += [reader.index.image_id(row) for row in range(len(reader))]
        if any(name.startswith((f"{fold._prefix}-", f"{fold._prefix}/")) for name in names):
            raise InputError(f"{reader.root}: holds things called {fold._prefix} already; rename that folder of images")
        return fold

    @property
    def manifest(self) -> Manifest:
        """Of the set as it is."""
        return self.reader.manifest

    @property
    def number(self) -> int:
        """One more than the set's highest."""
        return self.manifest.folds

    @property
    def _prefix(self) -> str:
        return f"fold-{self.number}"

    def image_id(self, record: ImageRecord) -> str:
        """A name that no image of the set has, whatever cameras call theirs: in a folder of the fold's own."""
        return f"{self._prefix}/{record.image_id}"

    def load(self, record: ImageRecord) -> StoredImage:
        """An image as it will be stored.

        Raises:
            OSError: it cannot be read.
            ValueError: no image that the set could hold.
        """
        extension = record.image_id.rpartition(".")[2].lower()
        image = load_image(record.read(), extension, resize=self.manifest.input_size, depth=self.manifest.depth)
        if image.pixels.ndim == 3 and self.manifest.channels == 1:
            raise ValueError("in colour, and the shards hold gray images")
        return image

    def bitmask(self, masks: np.ndarray, ignored: np.ndarray) -> np.ndarray:
        """Masks (C, H, W) and ignored pixels (H, W), all bool, as the set stores them: (H, W)."""
        kind = bitmask_dtype(self.manifest.num_classes + 1).type
        return pack_masks(masks).astype(kind) | ignored.astype(kind) << kind(self.ignore_bit)

    def known_signatures(self, threads: int, on_image: Callable[[int, int], None]) -> list[bytes]:
        """What the images of the set are recognised by, in their order.

        Args:
            threads: that compare while this one reads.
            on_image: called with the images done so far and in total.
        """
        rows = range(len(self.reader))
        images = (self.reader.read(row).image for row in rows)
        return _each(lambda image: image_signature(gray_of(image)), images, threads, lambda n: on_image(n, len(rows)))

    def signatures(
        self, records: Sequence[ImageRecord], threads: int, on_image: Callable[[int, int], None]
    ) -> list[bytes | str]:
        """What new images are recognised by, or why they cannot be had."""

        def look(record: ImageRecord) -> bytes | str:
            try:
                return image_signature(gray_of(self.load(record).pixels))
            except (OSError, ValueError) as error:
                return why_unreadable(record, error)

        return _each(look, records, threads, lambda n: on_image(n, len(records)))

    def write(
        self,
        folder: Path,
        known: Sequence[bytes],
        images: Iterable[NewImage],
        provenance: Callable[[], dict[str, Any]],
        given: Groups | None = None,
    ) -> Summary:
        """Make the set with its further fold in an empty folder.

        Args:
            folder: where; on the file system of the set its shards take no further room.
            known: `known_signatures`.
            images: the new ones, at least one.
            provenance: options of the manifest, beside those of the set; asked for when all images have come.
            given: which images belong together; those of the set as it says and new ones as they look when None.
        """
        root, staging = os.fspath(folder), staging_folder(os.fspath(folder))
        for shard in self.manifest.shards:
            _link(storage.local_path(storage.join(self.reader.root, shard.name)), folder / shard.name)
        fold = _Written()
        shards = self._write_shards(root, staging, iter(images), fold)
        assert shards, "a fold without images"
        image_ids = [self.reader.index.image_id(row) for row in range(len(self.reader))]
        alike, lines = group_images([*known, *fold.signatures], [*image_ids, *fold.image_ids], root, staging)
        if given is None:
            of_rows, of_new = self.reader.index.group, self.manifest.num_groups + alike[len(known) :]
        else:
            of_rows, of_new = given.of_rows, np.array([given.of_new[image_id] for image_id in fold.image_ids])
        _, groups = np.unique(np.concatenate([of_rows, of_new]), return_inverse=True)
        index = self._index(fold, groups[: len(known)], groups[len(known) :])
        index_size, index_sha256 = save_index(root, index, staging)
        old, present = self.manifest, np.array(fold.classes)
        manifest = replace(
            old,
            ignore_bit=self.ignore_bit,
            num_samples=index.num_rows,
            num_images=None if old.num_images is None else old.num_images + len(present),
            num_positive=tuple((np.array(old.num_positive) + present.sum(0)).tolist()),
            num_clean=old.num_clean + int((~present.any(1)).sum()),
            folds=self.number + 1,
            num_groups=int(groups.max()) + 1,
            shards=(*old.shards, *shards),
            index_size=index_size,
            index_sha256=index_sha256,
            fold_levels=None if old.fold_levels is None else old.fold_levels + fold.levels(),
            options={**old.options, **provenance()},
        )
        save_manifest(root, manifest, staging)
        sizes = np.bincount(self.reader.index.fold, minlength=self.number).tolist()
        return Summary(manifest, (*sizes, len(present)), tuple(lines))

    def _write_shards(self, root: str, staging: Path, images: Iterator[NewImage], fold: "_Written") -> list[ShardInfo]:
        """Write one tar after another; what the last step needs goes into `fold`."""
        old = self.manifest
        form = SampleForm(old.num_classes, self.ignore_bit, old.tile)
        shards: list[ShardInfo] = []
        while (first := next(images, None)) is not None:
            name, before = f"{self._prefix}-{len(shards):06d}.tar", len(fold.rows)
            number = len(old.shards) + len(shards)
            with storage.open_write(storage.join(root, name), staging=staging) as file, ShardFile(file) as tar:
                for new in chain([first], islice(images, Options.shard_size - 1)):
                    fold.add(new, add_image(tar, new.image_id, new.image, new.bitmask, form), number, old.num_classes)
            shards.append(ShardInfo(name, len(fold.rows) - before, tar.size, tar.sha256))
        return shards

    def _index(self, fold: "_Written", of_rows: np.ndarray, of_image: np.ndarray) -> pa.Table:
        """The samples of the set with their images' groups, and behind them the new ones with theirs and their fold."""
        schema = self.manifest.index_schema
        batch = read_batch(pa.memory_map(self.reader.samples.path).read_buffer(), schema)
        of_set = pa.Table.from_batches([batch.replace_schema_metadata(None)])
        num_tiles = [len(self.reader.index.tiles(row)) for row in range(len(of_rows))]
        of_sample, column = pa.array(np.repeat(of_rows, num_tiles), pa.int32()), schema.get_field_index("group")
        of_set = of_set.set_column(column, schema.field(column), of_sample)
        groups = of_image[fold.image_of_row].tolist()
        rows = [{**row, "fold": self.number, "group": group} for row, group in zip(fold.rows, groups, strict=True)]
        return pa.concat_tables([of_set, pa.Table.from_pylist(rows, schema)])


class _Written:
    """What has gone into the shards of a further fold."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.image_of_row: list[int] = []
        self.image_ids: list[str] = []
        self.signatures: list[bytes] = []
        self.classes: list[list[bool]] = []
        self.sums: list[tuple[int, int, int]] = []
        self.num_pixels: list[int] = []

    def add(self, new: NewImage, rows: Sequence[dict[str, Any]], shard: int, num_classes: int) -> None:
        self.rows += [{"shard": shard, **row} for row in rows]
        self.image_of_row += [len(self.image_ids)] * len(rows)
        self.image_ids.append(new.image_id)
        self.signatures.append(new.signature)
        bits = int(np.bitwise_or.reduce(new.bitmask, axis=None))
        self.classes.append([bool(bits >> k & 1) for k in range(num_classes)])
        self.sums.append(pixel_sums(new.image.pixels).sums)
        self.num_pixels.append(math.prod(new.image.size))

    def levels(self) -> tuple[FoldLevels, ...]:
        """Of this one fold, for the manifest."""
        levels = image_levels(np.array(self.sums), np.array(self.num_pixels))
        return fold_levels(levels, np.zeros(len(levels), np.int64), 1)


def like_none(new: Sequence[bytes], known: Sequence[bytes]) -> np.ndarray:
    """Which images are no duplicates of any that is known, nor of one that is: (n,) bool.

    Images of one gray level, too, are duplicates where their signatures are equal.

    Args:
        new: (n,) signatures.
        known: signatures.
    """
    groups, _ = group_duplicates([*known, *new])
    seen = set(known)
    is_new = ~np.isin(groups[len(known) :], groups[: len(known)])
    return is_new & np.array([signature not in seen for signature in new], bool)


def _each(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, on_done: Callable[[int], None]
) -> list[Result]:
    """What a function makes of each item, on threads."""
    results: list[Result] = []
    with ThreadPoolExecutor(threads) as pool:
        for result in map_ahead(pool, threads, function, items):
            results.append(result)
            on_done(len(results))
    return results


def _link(source: Path, target: Path) -> None:
    """A shard under another name, as the same file where the file system allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
        storage.sync_to_disk(target)
