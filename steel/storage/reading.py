"""What files hold, whole or in parts, wherever they are."""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from steel.storage.locations import is_remote, local_path
from steel.storage.stores import store_of


def read_bytes(url: str | os.PathLike[str]) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError, OSError: as the store says.
    """
    if not is_remote(url):
        return local_path(url).read_bytes()
    with store_of(url) as (fs, path):
        return cast(bytes, fs.cat_file(path))


def read_range(url: str | os.PathLike[str], offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset`; fewer where the file ends before."""
    if not is_remote(url):
        with open(local_path(url), "rb") as file:
            return os.pread(file.fileno(), length, offset)
    with store_of(url) as (fs, path):
        data = cast(bytes, fs.cat_file(path, start=offset, end=offset + length))
        # Of a web server that knows no ranges the whole file comes, whatever was asked for.
        is_whole = len(data) > length
        if offset > 0 and path.startswith("http") and not is_whole:
            is_whole = len(data) > max(0, fs.size(path) - offset)
    return data[offset : offset + length] if is_whole else data


def download(url: str, path: Path) -> None:
    """Copy a remote file to a local `path`; the caller makes that atomic where it matters."""
    with store_of(url) as (fs, remote):
        fs.get_file(remote, os.fspath(path))


@contextmanager
def local_copy(url: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a local file, or of a copy of a remote one that lasts as long as the block."""
    if not is_remote(url):
        yield local_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="steel-") as folder:
        download(os.fspath(url), Path(folder) / "copy")
        yield Path(folder) / "copy"


def digest_file(url: str | os.PathLike[str]) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        FileNotFoundError, OSError: as the store says.
    """
    with local_copy(url) as path, open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def mapped(url: str | os.PathLike[str]) -> Iterator[memoryview]:
    """The bytes of a file, memory-mapped; of a remote one, those of a copy."""
    with local_copy(url) as path, open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
            yield view
