"""The index of a shard folder, memory-mapped: opening ten million rows takes milliseconds and no memory to speak of."""

import math
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from steel.arrow_file import columns_of, read_batch
from steel.errors import InputError
from steel.shards.format import MEND, index_schema

_TABLE_ROWS = 1 << 17
"""Up to so many rows, what a reader asks of each is kept in memory, 120 bytes per row."""


class Place(NamedTuple):
    """What a reader must know of one sample."""

    shard: int
    height: int
    width: int
    original_height: int
    original_width: int
    image_offset: int
    image_length: int
    image_crc: int
    mask_offset: int
    mask_length: int
    mask_crc: int
    json_offset: int
    json_length: int
    json_crc: int
    num_marked: int
    """Pixels of any class, or ignored; 0 says that the mask is all zero."""


class Images:
    """One row per image, in the order of shards: what folds, evaluation and reports ask of a set.

    Attributes:
        shard: (N,) int32, number of the shard.
        height, width: (N,) int32, of the stored image in pixels.
        original_height, original_width: (N,) int32, before resizing; else the same.
        areas: (N, C) int32, pixels of each class at the original size.
        ignored: (N,) int32, pixels without a truth at the original size.
        fold: (N,) int16.
        group: (N,) int32, of duplicates and of images that are known to belong together.
    """

    shard: np.ndarray
    height: np.ndarray
    width: np.ndarray
    original_height: np.ndarray
    original_width: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    fold: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        raise NotImplementedError

    def image_id(self, row: int) -> str:
        """Path of the image relative to the folder it came from, with its extension."""
        raise NotImplementedError

    def rows(self, folds: Sequence[int]) -> np.ndarray:
        """Row numbers (n,) int32 of the images in any of `folds`, ascending."""
        return np.flatnonzero(np.isin(self.fold, np.asarray(folds, np.int16))).astype(np.int32)

    def samples(self, rows: np.ndarray) -> np.ndarray:
        """(m,) rows of the samples of these images: as many, where a sample is an image."""
        return rows

    def tiles(self, row: int) -> range:
        """The samples that an image consists of."""
        return range(row, row + 1)


class Index(Images):
    """One row per sample, in the order of shards and of samples in them: an image, or a tile of one.

    Columns are numpy arrays over the mapped file, for work on many rows. Workers look up one row at a time with
    `place`, which never touches the mapped columns: all over the place, that would make a large index resident.

    Attributes:
        columns: all columns of numbers by the names of `index_schema`, those of `Images` among them.
    """

    columns: dict[str, np.ndarray]

    def __init__(
        self, path: str | os.PathLike[str], num_classes: int, *, tiled: bool = False, trusted: bool = False
    ) -> None:
        """Open the index at a local path.

        Args:
            path: of the file.
            num_classes: C.
            tiled: samples are tiles of images.
            trusted: another process has opened and checked this file; what touches every row is left out.

        Raises:
            InputError: missing, damaged, or not an index of so many classes.
        """
        self.path, self.num_classes, self._is_tiled = os.fspath(path), num_classes, tiled
        try:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            batch = read_batch(pa.py_buffer(self._map), index_schema(num_classes, tiled=tiled), trusted=trusted)
        except FileNotFoundError:
            raise InputError(f"{self.path}: missing; {MEND}") from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path}: not an index of {num_classes} classes that this program reads, or damaged ({error}); "
                "run `python -m data_prep.verify`"
            ) from error
        self._num_rows = batch.num_rows
        self._key, self._image_id = batch["key"], batch["image_id"]
        self.columns = columns_of(batch)
        vars(self).update(self.columns)
        self._table = self._tabulate() if len(self) <= _TABLE_ROWS else None
        start = _address(np.frombuffer(self._map, np.uint8))
        self._starts = {name: _address(column) - start for name, column in self.columns.items()}
        if not trusted:
            self.forget_pages()
        self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)

    def __reduce__(self) -> tuple:
        return _reopen, (self.path, self.num_classes, self._is_tiled)

    def __len__(self) -> int:
        return self._num_rows

    def key(self, row: int) -> str:
        """The sample's name in its tar."""
        return self._key[row].as_py()

    def image_id(self, row: int) -> str:
        """Path of the image relative to the folder it came from, with its extension."""
        return self._image_id[row].as_py()

    def forget_pages(self) -> None:
        """Give back the memory that reading whole columns has made resident; they come from the page cache again."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def place(self, row: int) -> Place:
        """Where one sample is and what to expect there."""
        if self._table is not None:
            return Place._make(self._table[row].tolist())
        values = [int(self._entry(name, row)) for name in Place._fields[:-1]]
        return Place._make([*values, int(self._entry("areas", row).sum() + self._entry("ignored", row))])

    def _tabulate(self) -> np.ndarray:
        """(N, fields of Place) int64."""
        columns = [self.columns[name].astype(np.int64) for name in Place._fields[:-1]]
        return np.stack([*columns, self.areas.sum(axis=1, dtype=np.int64) + self.ignored], axis=1)

    def _entry(self, name: str, row: int) -> np.ndarray:
        """One entry of a column, read from the file: a scalar, or (C,) of `areas`."""
        column = self.columns[name]
        size = column.itemsize * math.prod(column.shape[1:])
        data = os.pread(self._handle, size, self._starts[name] + row * size)
        return np.frombuffer(data, column.dtype).reshape(column.shape[1:])


def _reopen(path: str, num_classes: int, tiled: bool) -> Index:
    """In a worker, an index that its parent has checked."""
    return Index(path, num_classes, tiled=tiled, trusted=True)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
