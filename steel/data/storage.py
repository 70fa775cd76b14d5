"""Files by path or URL: the one place that knows fsspec.

A location is a local path or any fsspec URL (`s3://bucket/folder`). Nothing half-written ever appears under a final
name: local files are written beside it, flushed to disk and renamed; remote stores show an object once it is complete.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any, NamedTuple, cast

from steel.errors import InputError


class FileInfo(NamedTuple):
    """One file of a folder."""

    path: str
    """Relative to the folder that was listed, with forward slashes."""
    size: int
    """Bytes."""


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether `url` names another store than the local file system."""
    text = os.fspath(url)
    return "://" in text and not text.startswith(("file://", "local://"))


def local_path(url: str | os.PathLike[str]) -> Path:
    """The path of a local location, with or without `file://`."""
    text = os.fspath(url)
    assert not is_remote(text), text
    return Path(text.split("://", 1)[1] if "://" in text else text)


def join(url: str | os.PathLike[str], *names: str) -> str:
    """`url/name/...` for paths and URLs alike."""
    return "/".join([os.fspath(url).rstrip("/"), *names])


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a remote `url` and the path in it.

    Raises:
        InputError: no such protocol, or the package that speaks it is not installed.
    """
    import fsspec  # here, because local work does not need it

    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: {error}") from error


def exists(url: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(url):
        return local_path(url).exists()
    fs, path = filesystem(os.fspath(url))
    fs.invalidate_cache()
    return bool(fs.exists(path))


def file_size(url: str | os.PathLike[str]) -> int | None:
    """Size of a file in bytes; None when there is none."""
    try:
        if not is_remote(url):
            return local_path(url).stat().st_size
        fs, path = filesystem(os.fspath(url))
        fs.invalidate_cache()
        return int(fs.size(path))
    except FileNotFoundError:
        return None


def list_files(url: str | os.PathLike[str], suffixes: tuple[str, ...] | None = None) -> list[FileInfo]:
    """All files in and below a folder, sorted by relative path; hidden ones and those in hidden folders are left out.

    Args:
        url: The folder.
        suffixes: Keep only names that end so, in any case of letters (`(".jpg", ".png")`).

    Raises:
        InputError: there is no such folder.
    """
    files = _list_remote(os.fspath(url)) if is_remote(url) else _list_local(local_path(url))
    if suffixes is not None:
        files = (f for f in files if f.path.lower().endswith(suffixes))
    return sorted(files)


def _list_local(root: Path) -> Iterator[FileInfo]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    pending = [("", os.fspath(root))]
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file():
                    yield FileInfo(prefix + entry.name, entry.stat().st_size)


def _list_remote(url: str) -> Iterator[FileInfo]:
    fs, root = filesystem(url)
    fs.invalidate_cache()
    try:
        found: dict[str, dict[str, Any]] = fs.find(root, detail=True)
    except FileNotFoundError:
        found = {}
    if not found:
        raise InputError(f"{url}: no such folder, or it is empty")
    start = len(root.rstrip("/")) + 1
    for path, info in found.items():
        relative = path[start:]
        if relative and not any(part.startswith(".") for part in relative.split("/")):
            yield FileInfo(relative, int(info["size"] or 0))


def read_bytes(url: str | os.PathLike[str]) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError, OSError: as the store says.
    """
    if not is_remote(url):
        return local_path(url).read_bytes()
    fs, path = filesystem(os.fspath(url))
    return cast(bytes, fs.cat_file(path))


def read_range(url: str | os.PathLike[str], offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset`; fewer where the file ends before."""
    if not is_remote(url):
        with open(local_path(url), "rb") as file:
            return os.pread(file.fileno(), length, offset)
    fs, path = filesystem(os.fspath(url))
    return cast(bytes, fs.cat_file(path, start=offset, end=offset + length))


def download(url: str, path: Path) -> None:
    """Copy a remote file to a local `path`; the caller makes that atomic where it matters."""
    fs, remote = filesystem(url)
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


def make_folder(url: str | os.PathLike[str]) -> None:
    """Make a local folder and those above it; stores without folders need none."""
    if not is_remote(url):
        local_path(url).mkdir(parents=True, exist_ok=True)


def free_bytes(url: str | os.PathLike[str]) -> int | None:
    """Free space where `url` lies or would lie, in bytes; None for remote stores."""
    if is_remote(url):
        return None
    path = local_path(url).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextmanager
def open_write(
    url: str | os.PathLike[str], *, staging: str | os.PathLike[str] | None = None
) -> Iterator[BufferedRandom]:
    """A file open for writing that appears as `url`, whole and on disk, when the block ends without an error.

    Args:
        url: The final name. Its folder must exist when local.
        staging: Local folder for the unfinished file; must be on the same file system as a local `url`. The folder of
            `url` when None (the system's temporary folder for remote stores).
    """
    remote = is_remote(url)
    folder = staging if staging is not None else (tempfile.gettempdir() if remote else local_path(url).parent)
    temporary = os.path.join(folder, f".unfinished-{uuid.uuid4().hex}")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            if not remote:
                os.fsync(file.fileno())
        if remote:
            fs, path = filesystem(os.fspath(url))
            fs.put_file(temporary, path)
        else:
            os.replace(temporary, local_path(url))
            _sync_folder(local_path(url).parent)
    except OSError as error:
        if error.filename is None:  # a full disk: say where
            error.filename = os.fspath(url)
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_bytes(url: str | os.PathLike[str], data: bytes, *, staging: str | os.PathLike[str] | None = None) -> None:
    """Write a small file at once and atomically; see `open_write`."""
    with open_write(url, staging=staging) as file:
        file.write(data)


def remove(url: str | os.PathLike[str]) -> None:
    """Remove a file or a folder with all in it; nothing happens when it is not there."""
    if is_remote(url):
        fs, path = filesystem(os.fspath(url))
        fs.invalidate_cache()
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return
    target = local_path(url)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
