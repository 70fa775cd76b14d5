"""Files and folders that appear whole or not at all.

Local ones are written beside their final name, flushed to disk and renamed; remote stores show an object once it is
complete.
"""

import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

from steel.errors import InputError
from steel.storage.locations import is_remote, local_path
from steel.storage.stores import store_of


def make_folder(url: str | os.PathLike[str]) -> None:
    """Make a local folder and those above it; stores without folders need none.

    Raises:
        InputError: a file is in the way.
    """
    if is_remote(url):
        return
    path = local_path(url)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        blocker = next((p for p in (path, *path.parents) if os.path.lexists(p)), path)
        raise InputError(f"{url}: cannot be made, for {blocker} is no folder; give another place") from None
    except FileNotFoundError:
        raise InputError(f"{url}: cannot be made; give another place") from None


def free_bytes(url: str | os.PathLike[str]) -> int | None:
    """Free space where `url` lies or would lie, in bytes; None for remote stores."""
    if is_remote(url):
        return None
    path = local_path(url).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


_UNFINISHED = ".unfinished-"
"""What the names of files and folders to come begin with, and of folders that go."""
_REMOVALS = 32
"""Files that a store is asked to remove at a time."""


@contextmanager
def open_write(
    url: str | os.PathLike[str], *, staging: str | os.PathLike[str] | None = None
) -> Iterator[BufferedRandom]:
    """A file open for writing that appears as `url`, whole and on disk, when the block ends without an error.

    Args:
        url: The final name. Its folder must exist when local.
        staging: Local folder for the unfinished file, best on the same file system as a local `url`: it is copied
            beside that otherwise. The folder of `url` when None (the system's temporary folder for remote stores).

    Raises:
        InputError: a folder is there.
    """
    remote = is_remote(url)
    if not remote and local_path(url).is_dir():
        raise InputError(f"{os.fspath(url)}: a folder; give the name of the file to write")
    folder = staging if staging is not None else (tempfile.gettempdir() if remote else local_path(url).parent)
    temporary = os.path.join(folder, f"{_UNFINISHED}{uuid.uuid4().hex}")
    try:
        with _errors_named(temporary, os.fspath(url)):
            with open(temporary, "x+b") as file:
                yield file
                file.flush()
                if not remote:
                    os.fsync(file.fileno())
            if remote:
                with store_of(url) as (fs, path):
                    fs.put_file(temporary, path)
            else:
                try:
                    os.replace(temporary, local_path(url))
                except OSError as error:
                    if error.errno != errno.EXDEV or staging is None:
                        raise
                    _copy_whole(temporary, url)
                sync_to_disk(local_path(url).parent)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _copy_whole(file: str, url: str | os.PathLike[str]) -> None:
    """Copy an unfinished file to another file system, where its name is that of a link or a mount."""
    with open(file, "rb") as unfinished, open_write(url) as copy:
        shutil.copyfileobj(unfinished, copy)


@contextmanager
def open_folder(url: str | os.PathLike[str]) -> Iterator[Path]:
    """A local folder to fill, which appears as `url`, in place of an empty one, when the block ends without an error.

    Raises:
        InputError: as `make_folder`, of the folder above.
        OSError: what cannot be written, by the name that it would have had.
    """
    final = local_path(url)
    make_folder(final.parent)
    staging = final.parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        with _errors_named(os.fspath(staging), os.fspath(url)):
            staging.mkdir()
            yield staging
            os.replace(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_leftovers(folder: Path, *, older_than_s: float = 0.0) -> None:
    """Remove what processes that were killed have left of files and folders to come, or to go, in a local folder, and
    in no folder of that.

    Args:
        folder: where they lie.
        older_than_s: seconds since something was written to one; where nobody can be writing, 0.
    """
    for leftover in folder.glob(f"{_UNFINISHED}*"):
        with suppress(FileNotFoundError):  # others may remove it, too
            if time.time() - leftover.lstat().st_mtime >= older_than_s:
                remove_at_once(leftover)


@contextmanager
def _errors_named(unfinished: str, given: str) -> Iterator[None]:
    """An OSError of the block names what was given, where it names the unfinished file or folder, or something in it;
    or nothing at all, as where writing finds the disk full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = given
        elif isinstance(error.filename, str) and error.filename.startswith(unfinished):
            error.filename = given + error.filename.removeprefix(unfinished)
        raise


def write_text(url: str | os.PathLike[str], text: str) -> None:
    """Write a small text file, as UTF-8 whatever the locale, at once and atomically; see `open_write`.

    Parts of file names that are no text are escaped: a report must not fail for the name of a folder.
    """
    write_bytes(url, text.encode("utf-8", "backslashreplace"))


def write_bytes(url: str | os.PathLike[str], data: bytes, *, staging: str | os.PathLike[str] | None = None) -> None:
    """Write a small file at once and atomically; see `open_write`."""
    with open_write(url, staging=staging) as file:
        file.write(data)


def remove(url: str | os.PathLike[str]) -> None:
    """Remove a file or a folder with all in it; nothing happens when it is not there, or others remove it meanwhile."""
    if is_remote(url):
        with store_of(url) as (fs, path):
            fs.invalidate_cache()
            _remove_remote(fs, path)
        return
    target = local_path(url)
    while target.is_dir() and not target.is_symlink():
        with suppress(FileNotFoundError):  # of what others have removed; the rest is still to be
            shutil.rmtree(target)
    target.unlink(missing_ok=True)


def _remove_remote(fs: Any, path: str) -> None:
    """Not by `fs.rm`, which takes `*`, `?` and `[` in a name for a pattern, and removes what that matches instead."""
    found = fs.find(path, withdirs=True, detail=True)
    folders = [name for name, info in found.items() if info.get("type") == "directory"]

    def remove_file(name: str) -> None:
        with suppress(FileNotFoundError):  # others may remove it, too
            fs.rm_file(name)

    with ThreadPoolExecutor(_REMOVALS if fs.async_impl else 1) as pool:
        list(pool.map(remove_file, found.keys() - folders))
    for folder in sorted(folders, reverse=True):  # those within before those around them
        with suppress(OSError):  # most stores have no folders but in the names of files
            fs.rmdir(folder)


def remove_at_once(url: str | os.PathLike[str]) -> None:
    """As `remove`, while others may write into a folder, or remove it, too: a local one is gone under its name before
    anything in it is. What a process that is killed meanwhile leaves of it is one of `remove_leftovers`."""
    if is_remote(url):
        remove(url)
        return
    place = local_path(url)
    aside = place.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        os.rename(place, aside)
        remove(aside)


def sync_to_disk(path: str | os.PathLike[str]) -> None:
    """Make a local file's content, or the names in a local folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
