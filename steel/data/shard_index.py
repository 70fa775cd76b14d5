"""The index of a shard folder, memory-mapped: opening ten million rows takes milliseconds and no memory to speak of."""

import math
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from steel.data.samples import index_schema
from steel.errors import InputError

Member = Literal["image", "mask", "json"]

_SMALL = 64 << 20
"""Bytes up to which an index may become resident, page by page, in every process that looks rows up."""


class Index:
    """One row a sample, in the order of shards and of samples in them.

    Columns are numpy arrays over the mapped file, for work on many rows. Workers look up one row at a time, with
    `value` and `member`: touching the mapped columns all over would make a large index resident in each of them.

    Attributes:
        shard: (N,) int32, number of the shard.
        height, width: (N,) int32, of the stored image in pixels.
        original_height, original_width: (N,) int32, before resizing; else the same.
        areas: (N, C) int32, stored pixels of each class.
        ignored: (N,) int32, stored pixels without a truth.
        fold: (N,) int16.
        group: (N,) int32, group of duplicates.
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

    def __init__(self, path: str | os.PathLike[str], num_classes: int) -> None:
        """Open the index at a local path.

        Raises:
            InputError: missing, damaged, or not an index of so many classes.
        """
        self.path, self.num_classes = os.fspath(path), num_classes
        try:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            table = pa.ipc.open_file(pa.py_buffer(self._map)).read_all().combine_chunks()
        except FileNotFoundError:
            raise InputError(f"{self.path}: missing; run `python -m data_prep` again") from None
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise InputError(f"{self.path}: damaged ({error}); run `python -m data_prep.verify`") from error
        if table.schema.remove_metadata() != index_schema(num_classes):
            raise InputError(f"{self.path}: not an index of {num_classes} classes that this program reads")
        self._num_rows = table.num_rows
        columns = {field.name: _only_chunk(table[field.name], field.type) for field in table.schema}
        self._key, self._image_id, self._image_ext = (columns.pop(name) for name in ("key", "image_id", "image_ext"))
        columns["areas"] = columns["areas"].flatten()
        self._columns = {name: column.to_numpy(zero_copy_only=True) for name, column in columns.items()}
        self._columns["areas"] = self._columns["areas"].reshape(-1, num_classes)
        vars(self).update(self._columns)
        self._handle: int | None = None
        if len(self._map) > _SMALL:
            self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._handle)
        start = _address(np.frombuffer(self._map, np.uint8))
        self._starts = {name: _address(column) - start for name, column in self._columns.items()}

    def __reduce__(self) -> tuple:
        return Index, (self.path, self.num_classes)

    def __len__(self) -> int:
        return self._num_rows

    def key(self, row: int) -> str:
        """The sample's name in its tar."""
        return self._key[row].as_py()

    def image_id(self, row: int) -> str:
        """Path of the image relative to the folder it came from, with its extension."""
        return self._image_id[row].as_py()

    def image_ext(self, row: int) -> str:
        """Extension of the image's member, without a dot."""
        return self._image_ext[row].as_py()

    def rows(self, folds: Sequence[int]) -> np.ndarray:
        """Row numbers (n,) int32 of the samples in any of `folds`, ascending."""
        return np.flatnonzero(np.isin(self.fold, np.asarray(folds, np.int16))).astype(np.int32)

    def value(self, name: str, row: int) -> np.ndarray:
        """One entry of a column: a scalar, or (C,) of `areas`."""
        column = self._columns[name]
        if self._handle is None:
            return column[row]
        size = column.itemsize * math.prod(column.shape[1:])
        data = os.pread(self._handle, size, self._starts[name] + row * size)
        return np.frombuffer(data, column.dtype).reshape(column.shape[1:])

    def member(self, name: Member, row: int) -> tuple[int, int, int]:
        """Where a member of a sample is: its offset in the shard, its bytes (0 = no such member), their zlib.crc32."""
        offset, length, crc = (int(self.value(f"{name}_{part}", row)) for part in ("offset", "length", "crc"))
        return offset, length, crc


def _only_chunk(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], kind)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
