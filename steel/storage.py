"""Files by path or URL: the one place that knows fsspec.

A location is a local path or any fsspec URL (`s3://bucket/folder`). Nothing half-written ever appears under a final
name: local files are written beside it, flushed to disk and renamed; remote stores show an object once it is complete.
"""

import errno
import hashlib
import mmap
import os
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any, NamedTuple, cast

from steel.errors import InputError, printable, told_url
from steel.validation_errors import Issue, raise_issues


class FileInfo(NamedTuple):
    """One file of a folder."""

    path: str
    """Relative to the folder that was listed, with forward slashes."""
    size: int
    """Bytes."""
    version: str = ""
    """Another one whenever the file is written again, as far as its store tells: by its size and time. To be compared
    only with what the same function gives, `list_files` or `file_info`."""


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether `url` names another store than the local file system."""
    text = os.fspath(url)
    return "://" in text and not text.startswith(("file://", "local://"))


def local_path(url: str | os.PathLike[str]) -> Path:
    """The path of a local location, with or without `file://`."""
    text = os.fspath(url)
    assert not is_remote(text), text
    return Path(text.split("://", 1)[1] if "://" in text else text)


def full_path(url: str) -> str:
    """The one way to write a path or URL, links resolved, with a slash at its end. Links in a circle stay as they are:
    whoever opens them is told."""
    return (url if is_remote(url) else os.path.realpath(local_path(url))).rstrip("/") + "/"


def check_apart(inputs: Iterable[str | None], outputs: Iterable[str | None]) -> None:
    """Refuse outputs that would replace an input or each other, however their paths are written; None is no file.

    Raises:
        InputError: names the first such output.
    """
    taken = {full_path(path): "read" for path in inputs if path is not None}
    for path in filter(None, outputs):
        if full_path(path) in taken:
            raise InputError(f"{path}: {taken[full_path(path)]} by the same command; give this output another name")
        taken[full_path(path)] = "written"


def join(url: str | os.PathLike[str], *names: str) -> str:
    """`url/name/...` for paths and URLs alike; "" is the current folder, as in `pathlib`."""
    base = os.fspath(url)
    return "/".join([base.rstrip("/"), *names] if base else names)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a remote `url` and the path in it.

    Raises:
        InputError: no such protocol, or the package that speaks it is not installed.
    """
    import fsspec  # here, because local work does not need it

    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise InputError(f"{told_url(url)}: {error}") from error


def load_driver(url: str) -> None:
    """Import what speaks the protocol of a remote `url`, which can take seconds but asks no network.

    Raises:
        InputError: as `filesystem`.
    """
    import fsspec

    try:
        fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
    except (ImportError, ValueError) as error:
        raise InputError(f"{told_url(url)}: {error}") from error


@contextmanager
def _store_of(url: str | os.PathLike[str]) -> Iterator[tuple[Any, str]]:
    """What `filesystem` gives; whatever its library raises in the block comes out as an OSError that names the place.

    Raises:
        InputError: as `filesystem`.
        OSError: no rights, no network, or whatever else the store's library has to say.
    """
    location = os.fspath(url)
    try:
        yield filesystem(location)
    except InputError:
        raise
    except Exception as error:
        wrong = _what_was_wrong(error)
        if isinstance(wrong, FileNotFoundError) or (isinstance(wrong, OSError) and wrong.errno == errno.ENOSPC):
            raise
        number = errno.EACCES if isinstance(wrong, PermissionError) else errno.EIO
        raise OSError(number, _reason(wrong, location), told_url(location)) from error


def _reason(wrong: BaseException, location: str) -> str:
    """What a store's library says, in one line; of a place whose URL holds secrets the kind alone, for words may quote
    it."""
    words = str(wrong).strip().partition("\n")[0] if told_url(location) == location else ""
    return words or type(wrong).__name__


_ABSENT = 404, 410
"""What a server answers of something that is not there."""


def _what_was_wrong(error: Exception) -> BaseException:
    """`error`, or what it was raised from where that says more: over HTTP fsspec takes a host that cannot be reached,
    and one that refuses, for one without the file."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None:
        return error
    is_of_network = isinstance(cause, OSError) or type(cause).__module__.partition(".")[0] == "aiohttp"
    return cause if is_of_network and getattr(cause, "status", None) not in _ABSENT else error


def exists(url: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(url):
        return local_path(url).exists()
    with suppress(FileNotFoundError), _store_of(url) as (fs, path):
        fs.invalidate_cache()
        fs.info(path)  # its own `exists` takes a host that cannot be reached for one without the file
        return True
    return False


def is_folder(url: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; in a store, whether anything lies below that name."""
    if not is_remote(url):
        return local_path(url).is_dir()
    with _store_of(url) as (fs, path):
        fs.invalidate_cache()
        return bool(fs.isdir(path))


def file_info(url: str | os.PathLike[str]) -> FileInfo | None:
    """Of one file, under its own name; None when there is none."""
    name = os.fspath(url).rpartition("/")[2]
    try:
        if not is_remote(url):
            return _info_local(name, local_path(url).stat())
        with _store_of(url) as (fs, path):
            fs.invalidate_cache()
            return _info_remote(name, fs.info(path))
    except FileNotFoundError:
        return None


def file_size(url: str | os.PathLike[str]) -> int | None:
    """Size of a file in bytes; None when there is none."""
    info = file_info(url)
    return None if info is None else info.size


def list_files(url: str | os.PathLike[str], suffixes: tuple[str, ...] | None = None) -> list[FileInfo]:
    """All files in and below a folder, sorted by relative path; hidden ones and those in hidden folders are left out.

    Links are followed. What passes here can be named in every format that is written: a name that is not UTF-8, or that
    holds control characters, is refused before any work.

    Args:
        url: The folder.
        suffixes: Keep only names that end so, in any case of letters (`(".jpg", ".png")`).

    Raises:
        ValidationErrors: names that cannot be used, links that lead nowhere or in a circle, pipes and other things that
            are no files, folders that cannot be read, all at once.
        InputError: there is no such folder.
    """
    found = _list_remote(os.fspath(url)) if is_remote(url) else _list_local(local_path(url))
    wanted = [e for e in found if suffixes is None or isinstance(e, Issue) or e.path.lower().endswith(suffixes)]
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
                yield Issue("links that lead nowhere", f"{path} ({error.strerror})")
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append((f"{path}/", entry.path, above | {identity}))
            else:
                is_file = stat.S_ISREG(status.st_mode)
                yield _info_local(path, status) if is_file else FileInfo(path, _NO_FILE)


def _list_remote(url: str) -> Iterator[FileInfo]:
    found: dict[str, dict[str, Any]] = {}
    with suppress(FileNotFoundError), _store_of(url) as (fs, root):
        fs.invalidate_cache()
        found = fs.find(root, detail=True)
        if not found:
            fs.info(root)  # raises what `find` keeps to itself
    if not found:
        raise InputError(f"{told_url(url)}: no such folder, or it is empty")
    start = len(root.rstrip("/")) + 1
    for path, info in found.items():
        relative = path[start:]
        if relative and not any(part.startswith(".") for part in relative.split("/")):
            yield _info_remote(relative, info)


_TIMES = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What stores call the hash of a file, or the time when it was written."""


def _info_local(path: str, status: os.stat_result) -> FileInfo:
    return FileInfo(path, status.st_size, f"{status.st_size} {status.st_mtime_ns}")


def _info_remote(path: str, info: dict[str, Any]) -> FileInfo:
    size = int(info["size"] or 0)
    return FileInfo(path, size, f"{size} {next((info[name] for name in _TIMES if info.get(name)), None)}")


def read_bytes(url: str | os.PathLike[str]) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError, OSError: as the store says.
    """
    if not is_remote(url):
        return local_path(url).read_bytes()
    with _store_of(url) as (fs, path):
        return cast(bytes, fs.cat_file(path))


def read_range(url: str | os.PathLike[str], offset: int, length: int) -> bytes:
    """At most `length` bytes from `offset`; fewer where the file ends before."""
    if not is_remote(url):
        with open(local_path(url), "rb") as file:
            return os.pread(file.fileno(), length, offset)
    with _store_of(url) as (fs, path):
        return cast(bytes, fs.cat_file(path, start=offset, end=offset + length))


def download(url: str, path: Path) -> None:
    """Copy a remote file to a local `path`; the caller makes that atomic where it matters."""
    with _store_of(url) as (fs, remote):
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
"""What the names of files and folders to come begin with."""


@contextmanager
def open_write(
    url: str | os.PathLike[str], *, staging: str | os.PathLike[str] | None = None
) -> Iterator[BufferedRandom]:
    """A file open for writing that appears as `url`, whole and on disk, when the block ends without an error.

    Args:
        url: The final name. Its folder must exist when local.
        staging: Local folder for the unfinished file; must be on the same file system as a local `url`. The folder of
            `url` when None (the system's temporary folder for remote stores).

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
                with _store_of(url) as (fs, path):
                    fs.put_file(temporary, path)
            else:
                os.replace(temporary, local_path(url))
                sync_to_disk(local_path(url).parent)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


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
    """Remove what processes that were killed have left of files and folders to come in a local folder, and in no folder
    of that.

    Args:
        folder: where they lie.
        older_than_s: seconds since something was written to one; where nobody can be writing, 0.
    """
    for leftover in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - leftover.lstat().st_mtime >= older_than_s:
            remove(leftover)


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
    """Remove a file or a folder with all in it; nothing happens when it is not there."""
    if is_remote(url):
        with _store_of(url) as (fs, path):
            fs.invalidate_cache()
            if fs.exists(path):
                fs.rm(path, recursive=True)
        return
    target = local_path(url)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def sync_to_disk(path: str | os.PathLike[str]) -> None:
    """Make a local file's content, or the names in a local folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
