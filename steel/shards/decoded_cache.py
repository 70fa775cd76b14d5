"""Decoded samples on this node's disk, in mapped memory: a crop is a copy of a few rows and no decoding.

One file per shard holds a record and a slot per sample, all at places that follow from the index:

    records  16 bytes per sample: checksum of the pixels, length and checksum of the packed bitmask, checksum of these
    slots    the pixels as they were decoded; then, where anything is marked, the bitmask at the size of the image (LZ4)

A slot is written before its record, so that a record that is right says that its slot was whole. Nothing is locked:
whoever decodes a sample writes the same bytes to the same place, and who dies in between leaves a slot without a
record. Files are sparse: what nobody has read takes no room.
"""

import contextlib
import errno
import hashlib
import logging
import mmap
import os
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from steel import __version__
from steel.images.decode import decoder_versions
from steel.shards.cache import flat_name, user_cache
from steel.shards.decoded_room import disk_bytes, hold, make_room, room_for
from steel.shards.format import Manifest
from steel.shards.index import Index, Place
from steel.shards.mask_codec import decode_stored_mask
from steel.shards.page_cache import ask_for

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
_RECORD = struct.Struct("<4I")
_CODEC = "lz4_raw"
_PAGE = 4096
_MASK_SHARE = 8
"""A bitmask has room for this share of its bytes, a page at least; one that packs worse, which is rare, is decoded."""
_MAX_OPEN = 128
"""Files that a process keeps mapped; each costs two descriptors."""
_ENDED = 0
"""The byte of the shared state that says that nothing more is written; the others say which pixels were checked."""


class Held(NamedTuple):
    """A sample as it was decoded."""

    image: np.ndarray
    """(H, W) or (H, W, 3) uint8, in mapped memory, read-only."""
    bitmask: np.ndarray | None
    """(H, W) at the size of the image; None where nothing is marked, or where it is not held."""


class _Record(NamedTuple):
    """What stands beside a sample."""

    image_crc: int
    mask_length: int
    """In bytes, packed; 0 where nothing is marked, or where it is not held."""
    mask_crc: int


class DecodedCache:
    """The decoded samples of one data set, for all ranks and workers of this node.

    Pixels are checked when a process and the workers forked from it first see them, bitmasks always. What is damaged
    counts as not held. After an error of the disk nothing more is written, said in one line.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: Index,
        *,
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int | None = None,
        trial: str | None = None,
    ) -> None:
        """Open the cache of a set, or begin one; its room is what there is once `make_room` was called.

        Args:
            manifest: of the set.
            index: of the set.
            folder: `decoded/` is made in it; `steel/` under the user's cache folder when None.
            max_bytes: what all sets in the folder may take; half of the room that there is when None.
            trial: a name for a cache beside the set's own, with the room that that one would have, for which no other
                set makes way. Whoever tries it removes its folder; what a killed process leaves makes way like a set.

        Raises:
            OSError: the folder cannot be made or written.
        """
        self._index, self._channels = index, manifest.channels
        self._names = [shard.name for shard in manifest.shards]
        self._starts = np.cumsum([0, *(shard.num_samples for shard in manifest.shards)])
        base = (Path(folder) if folder is not None else user_cache()) / "decoded"
        own = base / _identity(manifest)
        self.folder, self._max_bytes = own if trial is None else base / trial, max_bytes
        self._mask_kind = decode_stored_mask(manifest, b"", 1, 1).dtype
        self._begin()
        self._num_shards, self.num_bytes = self._fit(room_for(base, own, max_bytes))

    def make_room(self) -> None:
        """Remove other sets that nobody uses, the one used longest ago first, until this one fits.

        To be called before anything is written, but not for a trial.
        """
        make_room(self.folder.parent, self.folder, self.num_bytes, self._max_bytes)

    def _begin(self) -> None:
        weakref.finalize(self, os.close, hold(self.folder))
        self._files: dict[int, _ShardFile] = {}
        self._state = mmap.mmap(-1, 1 + len(self._index))  # shared with workers that are forked later

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_files", "_state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    @property
    def held_bytes(self) -> int:
        """What this set takes on the disk now."""
        return disk_bytes(self.folder)

    @property
    def num_samples(self) -> int:
        """Samples that there is room for: those of the first shards."""
        return int(self._starts[self._num_shards])

    def read(self, row: int, at: Place) -> Held | None:
        """A sample, if it is held and right.

        Args:
            row: of the index.
            at: what the index says of it.
        """
        try:
            file = self._file(at.shard)
        except OSError as error:
            self._end(error)
            file = None
        if file is None:
            return None
        number = row - int(self._starts[at.shard])
        record = self._record(file, row, number)
        if record is None:
            return None
        image_crc, mask_length, mask_crc = record
        start, mask_start = file.image_starts[number], file.mask_starts[number]
        pixels = file.map[start : start + at.height * at.width * self._channels]
        if not self._state[1 + row]:
            if zlib.crc32(pixels.data) != image_crc:
                return None
            self._state[1 + row] = 1
        bitmask = None
        if mask_length:
            packed = file.map[mask_start : mask_start + mask_length]
            if zlib.crc32(packed.data) != mask_crc:
                return None
            bitmask = self._unpack(packed, at)
        shape = (at.height, at.width) if self._channels == 1 else (at.height, at.width, self._channels)
        return Held(pixels.reshape(shape), bitmask)

    def ask_for(self, row: int, at: Place) -> bool:
        """Have a sample brought into the system's memory, if it is held; whether it is, its record says.

        One that has been read before is not asked for again: with its pixels checked, a crop reads its own rows alone.
        Errors are left to who reads it.

        Args:
            row: of the index.
            at: what the index says of it.
        """
        if self._state[1 + row]:
            return True
        with contextlib.suppress(OSError):
            file = self._file(at.shard)
            if file is None:
                return False
            number = row - int(self._starts[at.shard])
            record = self._record(file, row, number)
            if record is None:
                return False
            start = int(file.image_starts[number])
            ask_for(file.handle, start, int(file.mask_starts[number]) + record.mask_length - start)
            return True
        return False

    def _record(self, file: "_ShardFile", row: int, number: int) -> "_Record | None":
        """What the file says of its sample of this number; None when it is not held."""
        *sums, check = _RECORD.unpack(os.pread(file.handle, _RECORD.size, number * _RECORD.size))
        record = _Record(*sums)
        return record if check == _check(row, *record) else None

    def write(self, row: int, at: Place, image: np.ndarray, bitmask: np.ndarray | None) -> None:
        """Hold a sample that was decoded.

        Args:
            row: of the index.
            at: what the index says of it.
            image: (H, W) or (H, W, 3) uint8.
            bitmask: (H, W) at the size of the image; None where nothing is marked.
        """
        if self._state[_ENDED] or at.shard >= self._num_shards:
            return
        try:
            file = self._file(at.shard, make=True)
            if file is None:
                return
            number = row - int(self._starts[at.shard])
            packed = b"" if bitmask is None else self._pack(bitmask)
            if len(packed) > file.image_starts[number + 1] - file.mask_starts[number]:
                packed = b""
            image = np.ascontiguousarray(image)
            _write(file.handle, image.data.cast("B"), int(file.image_starts[number]))
            _write(file.handle, packed, int(file.mask_starts[number]))
            record = _Record(zlib.crc32(image.data), len(packed), zlib.crc32(packed))
            _write(file.handle, _RECORD.pack(*record, _check(row, *record)), number * _RECORD.size)
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        """Write nothing more, in this process and in those that share its state; say so once."""
        if not self._state[_ENDED]:
            self._state[_ENDED] = 1
            logger.warning("%s: %s; what is not held there yet is decoded each time", self.folder, error.strerror)

    def _file(self, shard: int, *, make: bool = False) -> "_ShardFile | None":
        """The file of a shard; None when there is none, or no room for one."""
        file = self._files.get(shard)
        if file is None and shard < self._num_shards:
            path = self.folder / f"{flat_name(self._names[shard])}.decoded"
            with contextlib.suppress(FileNotFoundError):
                file = _ShardFile(path, *self._layout(shard), make=make)
                if len(self._files) >= _MAX_OPEN:
                    del self._files[next(iter(self._files))]
                self._files[shard] = file
        return file

    def _layout(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the pixels and the bitmask of each sample of a shard begin, and where the last one ends."""
        index, rows = self._index, slice(int(self._starts[shard]), int(self._starts[shard + 1]))
        pixels = index.height[rows].astype(np.int64) * index.width[rows]
        is_marked = (index.areas[rows].sum(axis=1, dtype=np.int64) + index.ignored[rows]) > 0
        masks = np.where(is_marked, np.maximum(pixels * self._mask_kind.itemsize // _MASK_SHARE, 1), 0)
        sizes = _whole_pages(np.stack([pixels * self._channels, masks], axis=1))
        first = _whole_pages(np.array(len(pixels) * _RECORD.size))
        ends = first + np.cumsum(sizes)
        image_starts = np.concatenate([[first], ends[1::2]])
        return image_starts, ends[0::2]

    def _fit(self, room: int) -> tuple[int, int]:
        """How many of the first shards have room, and what they may take."""
        total = 0
        for shard in range(len(self._names)):
            end = int(self._layout(shard)[0][-1])
            if total + end > room:
                break
            total += end
        else:
            shard = len(self._names)
        self._index.forget_pages()
        return shard, total

    def _pack(self, bitmask: np.ndarray) -> bytes:
        packed = pa.compress(bitmask.astype(self._mask_kind, copy=False).tobytes(), codec=_CODEC, asbytes=True)
        assert isinstance(packed, bytes)
        return packed

    def _unpack(self, packed: np.ndarray, at: Place) -> np.ndarray:
        size = at.height * at.width * self._mask_kind.itemsize
        unpacked = pa.decompress(pa.py_buffer(packed), decompressed_size=size, codec=_CODEC)
        return np.frombuffer(unpacked, self._mask_kind).reshape(at.height, at.width)


class _ShardFile:
    """One file of the cache, open and mapped; the map outlives it for as long as somebody holds an array of it."""

    def __init__(self, path: Path, image_starts: np.ndarray, mask_starts: np.ndarray, *, make: bool) -> None:
        self.image_starts, self.mask_starts = image_starts, mask_starts
        size = int(image_starts[-1])
        self.handle = -1
        self.handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o666)
        length = os.fstat(self.handle).st_size
        if length < size:  # another process may be at the same: a file only ever grows, and to this one size
            os.ftruncate(self.handle, size)
        elif length > size:
            raise OSError(errno.EEXIST, f"{path.name} is no file of this cache")
        self.map = np.frombuffer(mmap.mmap(self.handle, size, prot=mmap.PROT_READ), np.uint8)

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


def _identity(manifest: Manifest) -> str:
    """Of a set as it is decoded here: another decoder may differ in the last bit."""
    text = f"{manifest.digest} {FORMAT_VERSION} {__version__} {decoder_versions()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _whole_pages(sizes: np.ndarray) -> np.ndarray:
    return -(-sizes // _PAGE) * _PAGE


def _check(row: int, image_crc: int, mask_length: int, mask_crc: int) -> int:
    return zlib.crc32(struct.pack("<Q3I", row, image_crc, mask_length, mask_crc))


def _write(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`; raises OSError when the disk takes less."""
    if os.pwrite(handle, data, offset) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
