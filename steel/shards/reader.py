"""Random access to the samples of a shard folder, local or remote, by byte offset; every byte read is checked."""

import errno
import logging
import os
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from steel import storage
from steel.errors import InputError, list_some, printable, without_secrets
from steel.images.decode import decode_image
from steel.images.geometry import resize_bitmask
from steel.shards.cache import ShardCache
from steel.shards.checks import rows_fault, totals
from steel.shards.decoded_cache import DecodedCache
from steel.shards.format import INDEX_NAME, MANIFEST_NAME, Manifest
from steel.shards.index import Images, Index, Place
from steel.shards.mask_codec import decode_stored_mask
from steel.shards.shard_files import DamagedError, ShardFiles
from steel.shards.tiled_images import TiledImages

logger = logging.getLogger(__name__)

Data = TypeVar("Data", bytes, bytes | memoryview)
Value = TypeVar("Value")

_SAMPLES_AHEAD = 64
"""Samples that are asked for before they are read: disks are fastest with many requests at once."""
_BYTES_AHEAD = 32 << 20
"""What they may take: they must still be there when they are read."""
_TOGETHER = 64 << 10
"""A sample is read in one go if its members follow each other, with at most so many bytes beyond the image."""


class BadSampleError(InputError):
    """A sample cannot be read as it was written: its shard is missing or cut short, or bytes have changed."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message, row)
        self.row = row

    def __str__(self) -> str:
        return printable(without_secrets(self.args[0]))


class RawSample(NamedTuple):
    """The stored bytes of a sample; empty where it has no such member."""

    image: bytes | memoryview
    mask: bytes
    meta: bytes


class Sample(NamedTuple):
    """A decoded sample. Both arrays may be read-only."""

    row: int
    """Of the index: of the image's or of the sample's, as asked for."""
    image: np.ndarray
    """(H, W) uint8 in gray sets, (H, W, 3) RGB uint8 in colour sets."""
    bitmask: np.ndarray
    """(H, W) uint8 or uint16, bit k = class k + 1; at the size of the image unless the original one was asked for."""


class ShardReader:
    """Reads samples of a finished shard folder in any order.

    Safe to hand to worker processes: the index is memory-mapped, shards are opened where they are first read.

    Attributes:
        manifest: what the whole set is.
        index: what each image is.
        samples: what each sample of the tars is: an image, the same as `index`, or a tile of one.
        mask_kind: uint8 or uint16, the type of the bitmasks.
        on_bad_sample: what a loader should do about a `BadSampleError`: `fail`, or `skip` and count.
        decoded: where decoded samples are held; None until `keep_decoded`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        on_bad_sample: Literal["fail", "skip"] = "fail",
        max_bad_samples: int = 10,
    ) -> None:
        """Open a shard folder.

        Args:
            root: path or URL of the folder.
            cache_dir: where copies of remote shards are kept; a folder under the user's cache when None.
            cache_bytes: keep at most so many bytes of remote shards; all when None.
            on_bad_sample: see the class.
            max_bad_samples: with `skip`, so many different samples may be damaged in this process.

        Raises:
            InputError: no finished shard folder; or, with `fail`, shards that are missing or cut short.
        """
        self.root, self.on_bad_sample = os.fspath(root), on_bad_sample
        self.max_bad_samples, self._bad_rows = max_bad_samples, set[int]()
        self.manifest = Manifest.load(self.root)
        self.cache = None
        if storage.is_remote(self.root):
            self.cache = ShardCache(self.root, self.manifest.digest, folder=cache_dir, max_bytes=cache_bytes)
        self._files = ShardFiles(self.root, self.manifest, self.cache)
        self.samples = Index(self._files.index(), self.manifest.num_classes, tiled=self.manifest.tile is not None)
        self._check_index()
        self.index: Images = self.samples if self.manifest.tile is None else TiledImages(self.samples)
        if self.cache is None and on_bad_sample == "fail":
            self._files.check_sizes()
        self.mask_kind = decode_stored_mask(self.manifest, b"", 1, 1).dtype
        self.decoded: DecodedCache | None = None

    def __len__(self) -> int:
        return len(self.index)

    def close(self) -> None:
        """Close all shards; the next read opens them again."""
        self._files.close()

    def read(self, row: int, *, original_mask: bool = False) -> Sample:
        """Read, check and decode one image; where it is stored in tiles, put it together.

        Args:
            row: of the index.
            original_mask: as in `read_sample`.

        Raises:
            BadSampleError: its bytes are not what was written.
        """
        tiles = self.index.tiles(row)
        first = self.read_sample(tiles[0], original_mask=original_mask)
        if self.manifest.tile is None or len(tiles) == 1:
            return first._replace(row=row)
        size = int(self.index.height[row]), int(self.index.width[row])
        image = np.empty((*size, *first.image.shape[2:]), np.uint8)
        bitmask = np.empty(size, self.mask_kind)
        for sample, place in zip(tiles, self.manifest.tile.places(*size), strict=True):
            tile = first if sample == tiles[0] else self.read_sample(sample)
            image[place.inside], bitmask[place.inside] = tile.image, tile.bitmask
        return Sample(row, image, bitmask)

    def read_sample(self, row: int, *, original_mask: bool = False) -> Sample:
        """Read, check and decode one sample.

        Args:
            row: of the samples.
            original_mask: give the bitmask at the image's original size, as it is stored; else at the size of the
                stored image, which `--resize` may have reduced.

        Raises:
            BadSampleError: its bytes are not what was written.
        """
        at = self.samples.place(row)
        try:
            image, bitmask = self._mended(at.shard, lambda: self._pixels(row, at, original_mask=original_mask))
        except (ValueError, OSError) as error:
            raise self._bad(row, error) from error
        if bitmask is None:
            size = (at.original_height, at.original_width) if original_mask else (at.height, at.width)
            bitmask = _clean_bitmask(*size, self.mask_kind)
        return Sample(row, image, bitmask)

    def keep_decoded(
        self,
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int | None = None,
        trial: str | None = None,
    ) -> DecodedCache:
        """From now on hold decoded samples on this node's disk, and read those that are held; the same pixels come out.
        Other sets that nobody uses make room, but for a trial.

        Args:
            folder: see `DecodedCache`.
            max_bytes: see `DecodedCache`.
            trial: see `DecodedCache`.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self.decoded = DecodedCache(self.manifest, self.samples, folder=folder, max_bytes=max_bytes, trial=trial)
        if trial is None:
            self.decoded.make_room()
        return self.decoded

    def _pixels(self, row: int, at: Place, *, original_mask: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The image, and the bitmask, None when it is clean: those held, or decoded and then held.

        Masks are held at the size that training reads; where images were resized, evaluation decodes theirs.

        Raises:
            ValueError, OSError: they cannot be read.
        """
        held = None if self.decoded is None else self.decoded.read(row, at)
        original_mask = original_mask and (at.original_height, at.original_width) != (at.height, at.width)
        if held is not None and held.bitmask is not None and not original_mask:
            return held
        image = self._decode_image(at) if held is None else held.image
        bitmask = self._decode_mask(at)
        if not original_mask:
            bitmask = _at_size_of_image(bitmask, at)
        if self.decoded is not None and held is None:
            self.decoded.write(row, at, image, _at_size_of_image(bitmask, at))
        return image, bitmask

    def _decode_image(self, at: Place) -> np.ndarray:
        data = _check(self._files.read(at.shard, at.image_offset, at.image_length), at.image_crc)
        image = decode_image(data, self.manifest.channels, self.manifest.depth)
        if image.shape[:2] != (at.height, at.width):
            raise ValueError(f"the image is {image.shape[0]}x{image.shape[1]}, the index says {at.height}x{at.width}")
        return image

    def _decode_mask(self, at: Place) -> np.ndarray | None:
        if not at.num_marked:  # about half of all images: reading their mask would tell nothing
            return None
        data = _check(self._files.read(at.shard, at.mask_offset, at.mask_length), at.mask_crc)
        bitmask = decode_stored_mask(self.manifest, data, at.original_height, at.original_width)
        return bitmask.astype(self.mask_kind, copy=False)

    def read_bytes(self, row: int, *, verify: bool = True) -> RawSample:
        """The stored bytes of one sample; without `verify`, lengths are checked but not checksums.

        Raises:
            BadSampleError: its bytes are not what was written.
        """
        at = self.samples.place(row)
        try:
            return self._mended(at.shard, lambda: self._stored(at, verify=verify))
        except (ValueError, OSError) as error:
            raise self._bad(row, error) from error

    def _stored(self, at: Place, *, verify: bool) -> RawSample:
        """As `read_bytes`; raises ValueError or OSError."""
        spans = _spans(at)
        if len(spans) == 1:
            whole = memoryview(self._files.read(at.shard, *spans[0]))
            mask, meta = at.mask_offset - at.image_offset, at.json_offset - at.image_offset
            raw = RawSample(whole[: at.image_length], bytes(whole[mask : mask + at.mask_length]), bytes(whole[meta:]))
        else:
            raw = RawSample(*(self._files.read(at.shard, *span) for span in spans))
        if verify:
            for data, crc in zip(raw, (at.image_crc, at.mask_crc, at.json_crc), strict=True):
                _check(data, crc)
        return raw

    def _mended(self, shard: int, read: Callable[[], Value]) -> Value:
        """What `read` gives; where bytes of a remote shard's local copy are wrong, what it gives of a sound copy."""
        try:
            return read()
        except DamagedError:
            if not self._files.renew(shard):
                raise
        return read()

    def count_bad(self, errors: Iterable[BadSampleError]) -> None:
        """Log samples that were skipped, each once, and keep count of them.

        Raises:
            BadSampleError: they are more than `max_bad_samples`.
        """
        for error in errors:
            if error.row in self._bad_rows:
                continue
            self._bad_rows.add(error.row)
            logger.warning("skipped: %s", error)
            if len(self._bad_rows) > self.max_bad_samples:
                raise BadSampleError(
                    f"more than {self.max_bad_samples} damaged samples (runtime.max-bad-samples); the last: {error}",
                    error.row,
                )

    def ask_for(self, rows: Iterable[int]) -> None:
        """Have samples that will be read soon brought into this node's memory, without waiting for them.

        Does nothing for remote shards that are not on this node. Errors are left to whoever reads them.

        Args:
            rows: of the samples.
        """
        for row in rows:
            at = self.samples.place(row)
            if self.decoded is None or not self.decoded.ask_for(row, at):
                for offset, length in _spans(at):
                    self._files.ask_for(at.shard, offset, length)

    def num_ahead(self) -> int:
        """How many samples are worth asking for ahead: enough to keep a disk busy, of a few tens of MB."""
        stored = sum(shard.size for shard in self.manifest.shards) // max(1, len(self.samples))
        decoded = 0 if self.decoded is None else self.decoded.num_bytes // max(1, self.decoded.num_samples)
        return max(1, min(_SAMPLES_AHEAD, _BYTES_AHEAD // max(1, stored, decoded)))

    def prefetch(self, part: int = 0, num_parts: int = 1) -> None:
        """Fetch remote shards into the cache ahead of their use.

        Each of `num_parts` processes begins with shards of its own. Does nothing when they would not all fit.
        """
        self._files.prefetch(part, num_parts)

    def _bad(self, row: int, error: Exception) -> Exception:
        """`error` as the one line that a user can act on; a full disk stays what it is."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):
            return error
        reason = "the shard is missing" if isinstance(error, FileNotFoundError) else str(error)
        shard = self.manifest.shards[self.samples.place(row).shard].name
        way_out = ", `--runtime.on-bad-sample skip` trains without them" if self.on_bad_sample == "fail" else ""
        return BadSampleError(
            f"{storage.join(self.root, shard)}: sample {self.samples.image_id(row)} (row {row}): {reason}; "
            f"`python -m data_prep.verify` finds all such samples{way_out}",
            row,
        )

    def _check_index(self) -> None:
        """Raises InputError when the index contradicts itself or the manifest."""
        columns = self.samples.columns
        fault = rows_fault(columns, self.manifest) or next(
            (
                f"{total.what}: {MANIFEST_NAME} says {_listed(total.expected)}, it has {_listed(total.found)}"
                for total in totals(columns, self.manifest)
                if total.expected != total.found
            ),
            None,
        )
        self.samples.forget_pages()
        if fault is not None:
            raise InputError(
                f"{storage.join(self.root, INDEX_NAME)}: {fault}; damaged, or of another set: make the shards again"
            )


def _spans(at: Place) -> list[tuple[int, int]]:
    """Offset and length of all that a sample is: one span where its members follow each other; image, mask, meta."""
    start, end = at.image_offset, at.json_offset + at.json_length
    if start < at.mask_offset < at.json_offset and end - start < at.image_length + _TOGETHER:
        return [(start, end - start)]
    return [(start, at.image_length), (at.mask_offset, at.mask_length), (at.json_offset, at.json_length)]


def _listed(numbers: list[int]) -> str:
    return list_some([str(number) for number in numbers])


def _check(data: Data, crc: int) -> Data:
    """`data`, if their checksum is right or there are none; else raises DamagedError."""
    if data and zlib.crc32(data) != crc:
        raise DamagedError("wrong checksum")
    return data


def _at_size_of_image(bitmask: np.ndarray | None, at: Place) -> np.ndarray | None:
    return None if bitmask is None else resize_bitmask(bitmask, (at.height, at.width))


@lru_cache(maxsize=32)
def _clean_bitmask(height: int, width: int, kind: np.dtype) -> np.ndarray:
    """A read-only bitmask without any defect."""
    bitmask = np.zeros((height, width), kind)
    bitmask.setflags(write=False)
    return bitmask
