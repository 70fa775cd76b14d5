"""A shard as a file: members written by webdataset, their places, and the size and hash of the whole as it grows."""

import functools
import hashlib
import sys
import tarfile
import threading
import zlib
from typing import TYPE_CHECKING, BinaryIO

from steel.errors import InputError

if TYPE_CHECKING:
    from webdataset.writer import TarWriter


_AT_ONCE = 1 << 18
"""Bytes handed on together: tarfile writes in pieces of 10 KB, each of which would be a call of the system."""


class HashedFile:
    """Passes on what is written to it, and keeps its size and hash."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting = bytearray()
        self.is_abandoned = False
        """Nothing is passed on any more."""
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Take bytes over; they are passed on in large pieces."""
        self._waiting += data
        if len(self._waiting) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Pass on what waits."""
        if not self.is_abandoned:
            self._file.write(self._waiting)
            self.sha256.update(self._waiting)
            self.size += len(self._waiting)
        self._waiting.clear()


class ShardFile:
    """A tar in webdataset's convention, as a context; its bytes depend on names, data and their order alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = HashedFile(file)
        self._tar = _import_tar_writer()(self._file, user="", group="", mode=0o644, mtime=0, encoder=False)

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *error: object) -> None:
        """Write the end of the tar, unless an error has made it worthless."""
        self._file.is_abandoned = error[0] is not None
        self._tar.close()
        self._file.flush()

    def add(self, kind: str, key: str, extension: str, data: bytes) -> dict[str, int]:
        """Append `<key>.<extension>`; returns its columns of the index, which start with `kind`."""
        self._tar.write({"__key__": key, extension: data})
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        offset = self._tar.tarstream.offset - padded  # the end of what was written, which is its data and zeros
        return {f"{kind}_offset": offset, f"{kind}_length": len(data), f"{kind}_crc": zlib.crc32(data)}

    @property
    def size(self) -> int:
        """Bytes written; those of the tar after the context."""
        return self._file.size

    @property
    def sha256(self) -> str:
        """Of what has been written, in hexadecimal."""
        return self._file.sha256.hexdigest()


_IMPORTING = threading.Lock()


@functools.cache
def _import_tar_writer() -> type["TarWriter"]:
    """webdataset's writer, without torch where nobody has imported that yet.

    `import webdataset` takes torch along, for the base classes of its readers, and does well without: that spares each
    worker 2.2 s of CPU and half a gigabyte. What was imported so is forgotten, as the rest of the process may want to
    read with webdataset.

    Raises:
        InputError: it is not installed.
    """
    try:
        with _IMPORTING:
            if {"torch", "webdataset"} & sys.modules.keys():
                from webdataset.writer import TarWriter
            else:
                sys.modules["torch"] = None  # type: ignore[assignment]  # how Python says that there is none
                try:
                    from webdataset.writer import TarWriter
                finally:
                    for name in [n for n in sys.modules if n == "torch" or n.partition(".")[0] == "webdataset"]:
                        del sys.modules[name]
    except ImportError as error:
        raise InputError(f"sharding needs the package {error.name}: pip install 'steel-defects[train]'") from error
    return TarWriter
