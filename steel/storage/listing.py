"""What is there: files and folders, their sizes and versions."""

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from steel.errors import InputError, printable, told_url
from steel.storage.locations import is_remote, join, local_path
from steel.storage.stores import store_of
from steel.validation_errors import Issue, raise_issues


class FileInfo(NamedTuple):
    """One file of a folder."""

    path: str
    """Relative to the folder that was listed, with forward slashes."""
    size: int | None
    """Bytes; None where its store does not tell."""
    version: str = ""
    """Another one whenever the file is written again, by its size and its time or hash; empty where its store tells
    neither. To be compared only with what the same function gives, `list_files` or `file_info`."""


def exists(url: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(url):
        return local_path(url).exists()
    with suppress(FileNotFoundError), store_of(url) as (fs, path):
        fs.invalidate_cache()
        fs.info(path)  # its own `exists` takes a host that cannot be reached for one without the file
        return True
    return False


def is_folder(url: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; in a store, whether anything lies below that name."""
    if not is_remote(url):
        return local_path(url).is_dir()
    with store_of(url) as (fs, path):
        fs.invalidate_cache()
        return bool(fs.isdir(path))


def file_info(url: str | os.PathLike[str]) -> FileInfo | None:
    """Of one file, under its own name; None when there is none."""
    name = os.fspath(url).rpartition("/")[2]
    try:
        if not is_remote(url):
            return _info_local(name, local_path(url).stat())
        with store_of(url) as (fs, path):
            fs.invalidate_cache()
            return _info_remote(name, fs.info(path))
    except FileNotFoundError:
        return None


def file_size(url: str | os.PathLike[str]) -> int | None:
    """Size of a file in bytes; None when there is none.

    Raises:
        OSError: its store does not tell, or as the store says.
    """
    info = file_info(url)
    if info is not None and info.size is None:
        raise OSError(errno.EIO, "the server does not tell its size", told_url(url))
    return None if info is None else info.size


def list_files(url: str | os.PathLike[str], suffixes: tuple[str, ...] | None = None) -> list[FileInfo]:
    """All files in and below a folder, sorted by relative path; hidden ones and those in hidden folders are left out.

    Links are followed. Over HTTP, where a listing holds names alone, each file that is kept costs a request. What
    passes here can be named in every format that is written: a name that is not UTF-8, or that holds control
    characters, is refused before any work.

    Args:
        url: The folder.
        suffixes: Keep only names that end so, in any case of letters (`(".jpg", ".png")`).

    Raises:
        ValidationErrors: names that cannot be used, links that lead nowhere or in a circle, pipes and other things that
            are no files, folders that cannot be read, all at once.
        InputError: there is no such folder; most stores have none without a file.
    """
    found = _list_remote(os.fspath(url)) if is_remote(url) else _list_local(local_path(url))
    wanted = [e for e in found if suffixes is None or isinstance(e, Issue) or e.path.lower().endswith(suffixes)]
    if is_remote(url):
        wanted = _with_sizes(os.fspath(url), wanted)
    files = sorted(entry for entry in wanted if isinstance(entry, FileInfo))
    issues = [entry for entry in wanted if isinstance(entry, Issue)]
    issues += [Issue("things that are neither files nor folders", f.path) for f in files if f.size == _NO_FILE]
    issues += name_issues(file.path for file in files)
    raise_issues(issues, f"in {told_url(url)}; mend, rename or remove them")
    return files


def name_issues(paths: Iterable[str]) -> list[Issue]:
    """The names among `paths` that a CSV file, a tar or an index could not hold or would garble."""
    kind, encoding = "names with control characters or bytes that are not UTF-8", sys.getfilesystemencoding()
    if encoding != "utf-8":
        kind = f"names with control characters or bytes that are not {encoding} (PYTHONUTF8=1 reads names as UTF-8)"
    return [Issue(kind, path) for path in paths if printable(path) != path]


_NO_FILE = -1
"""Stands for the size of a pipe, a socket or a device."""
_DEAD_LINKS = "links that lead nowhere"
_REQUESTS = 32
"""Files whose sizes a server is asked for at a time."""


def _list_local(root: Path) -> Iterator[FileInfo | Issue]:
    if not root.is_dir():
        raise InputError(f"{root}: {'a file, not a folder' if root.exists() else 'no such folder'}")
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [("", os.fspath(root), frozenset())]
    while pending:
        prefix, folder, above = pending.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError as error:
            yield Issue("folders that cannot be read", f"{prefix or folder} ({error.strerror})")
            continue
        identity = status.st_dev, status.st_ino
        if identity in above:
            yield Issue("links that lead back to a folder above them", prefix.rstrip("/"))
            continue
        for entry in entries:
            path = prefix + entry.name
            try:
                status = entry.stat()
            except OSError as error:  # whatever its name: it may have led to a folder
                yield Issue(_DEAD_LINKS, f"{path} ({error.strerror})")
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append((f"{path}/", entry.path, above | {identity}))
            else:
                is_file = stat.S_ISREG(status.st_mode)
                yield _info_local(path, status) if is_file else FileInfo(path, _NO_FILE)


def _with_sizes(url: str, entries: list[FileInfo | Issue]) -> list[FileInfo | Issue]:
    """The entries of a listing, those that came without a size after a request for each."""
    unsized = [entry.path for entry in entries if isinstance(entry, FileInfo) and entry.size is None]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        infos = list(pool.map(lambda path: file_info(join(url, path)), unsized))
    asked = {
        path: Issue(_DEAD_LINKS, path) if info is None else info._replace(path=path)
        for path, info in zip(unsized, infos, strict=True)
    }
    return [asked.get(entry.path, entry) if isinstance(entry, FileInfo) else entry for entry in entries]


def _list_remote(url: str) -> Iterator[FileInfo]:
    found: dict[str, dict[str, Any]] = {}
    is_folder = False
    with suppress(FileNotFoundError), store_of(url) as (fs, root):
        fs.invalidate_cache()
        found = fs.find(root, detail=True)
        # An empty bucket is one. `info` raises what `find` keeps to itself.
        is_folder = bool(found) or fs.info(root)["type"] == "directory"
    if not is_folder:
        raise InputError(f"{told_url(url)}: no such folder, or it is empty")
    start = len(root.rstrip("/")) + 1
    for path, info in found.items():
        relative = path[start:]
        if relative and not any(part.startswith(".") for part in relative.split("/")):
            yield _info_remote(relative, info)


_STAMPS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "Digest"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modified", "created"),
)
"""What stores call the hash of a file, or the time when it was written."""


def _info_local(path: str, status: os.stat_result) -> FileInfo:
    return FileInfo(path, status.st_size, f"{status.st_size} {status.st_mtime_ns}")


def _info_remote(path: str, info: dict[str, Any]) -> FileInfo:
    size = None if info["size"] is None else int(info["size"])
    stamp = next((info[name] for name in _STAMPS if info.get(name)), None)
    return FileInfo(path, size, "" if stamp is None else f"{size} {stamp}")
