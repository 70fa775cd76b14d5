"""Local copies of remote shards, fetched once per node however many processes ask, and let go when space runs out."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread

from steel import storage
from steel.errors import InputError
from steel.shards.format import ShardInfo

logger = logging.getLogger(__name__)

HASH_LIMIT = 64 << 20
"""Bytes up to which an index is hashed when it is opened; a larger one is left to `data_prep.verify`."""
_MAX_FLAT = 240
"""Bytes: no file system's name has more than 255, and what files of a shard are for goes before and after it."""
_PAUSES = (0.5, 2.0)
"""Seconds between tries to fetch a file."""
_ROOM_PAUSE = 0.05
"""Seconds between looks at whether others' shards have come, where these have all the room."""


class FetchError(InputError):
    """A remote file could not be had, or what came is not what its manifest says."""


class ShardCache:
    """A folder of whole shards, named after the identity of their set, so that changed data never mix with old.

    A file appears under its final name only when it is whole and its sha256 is right. Any number of processes may use
    the folder at once; a lock file a shard lets one of them fetch it while the others wait. Where room is bounded, a
    lock file that is held is as long as the shard on its way, which so counts from before its first byte comes; one
    that nobody holds is that of a killed process and counts for nothing.
    """

    def __init__(
        self,
        root: str,
        digest: str,
        *,
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Args:
        root: URL of the shard folder.
        digest: identity of the set (`Manifest.digest`).
        folder: where copies are kept; `steel/` under the user's cache folder when None.
        max_bytes: beyond so many bytes of shards, those not used for longest are removed, and fetching waits for the
            others' where these have all the room; a shard that is larger is held alone. None keeps all.
        """
        base = Path(folder) if folder is not None else user_cache()
        self.root, self.max_bytes = root, max_bytes
        self.folder = base / digest[:16]
        storage.make_folder(self.folder)

    def open_shard(self, shard: ShardInfo) -> int:
        """A file descriptor of the local copy, fetched first if need be; readable even if the copy is removed later.

        Raises:
            FetchError: the shard is missing, unreachable or not what the manifest says.
        """
        path = self.folder / shard.name
        handle = _open_whole(path, shard.size)
        if handle is None:
            with self._locked(shard.name) as lock:
                handle = _open_whole(path, shard.size)
                if handle is None:
                    with self._room(shard, lock):
                        handle = self._fetch(shard.name, shard.size, shard.sha256)
        if self.max_bytes is not None:
            os.utime(handle)
        return handle

    def renew(self, shard: ShardInfo) -> int:
        """As `open_shard`, where bytes of the local copy were found wrong: another one takes its place, unless its
        sha256 is right, as after another process has fetched it.

        Raises:
            FetchError: as `open_shard`.
        """
        path = self.folder / shard.name
        with self._locked(shard.name) as lock:
            handle = _open_whole(path, shard.size)
            if handle is not None:
                if _digest(handle) == shard.sha256:
                    return handle
                os.close(handle)
            logger.warning("%s: the local copy of a shard is damaged and is fetched again", path)
            with self._room(shard, lock):
                return self._fetch(shard.name, shard.size, shard.sha256)

    def open_held(self, shard: ShardInfo) -> int | None:
        """A file descriptor of the local copy, which counts as used; None where there is none yet. Nothing is fetched.

        Raises:
            OSError: it cannot be read.
        """
        handle = _open_whole(self.folder / shard.name, shard.size)
        if handle is not None and self.max_bytes is not None:
            with contextlib.suppress(OSError):  # another user's copy can be read all the same
                os.utime(handle)
        return handle

    def local_file(self, name: str, size: int, sha256: str) -> Path:
        """The local copy of a file that is never removed (the index), fetched first if need be; see `is_sound`.

        Raises:
            FetchError: as `open_shard`.
        """
        path = self.folder / name
        if not is_sound(path, size, sha256):
            with self._locked(name):
                if not is_sound(path, size, sha256):  # another process may have fetched it meanwhile
                    os.close(self._fetch(name, size, sha256))
        return path

    def prefetch(self, shards: Sequence[ShardInfo], *, at_once: int = 1) -> None:
        """Fetch whole shards ahead of their use; those that another process is at are left to it.

        Errors are left to whoever needs the shard.

        Args:
            shards: in the order in which they are begun.
            at_once: so many at a time, as a store keeps each request waiting.
        """
        waiting = iter(shards)
        threads = [Thread(target=self._prefetch_each, args=(waiting,), daemon=True) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _prefetch_each(self, shards: Iterator[ShardInfo]) -> None:
        for shard in shards:
            with contextlib.suppress(FetchError, OSError), self._locked(shard.name, wait=False):
                handle = _open_whole(self.folder / shard.name, shard.size)
                if handle is None:
                    handle = self._fetch(shard.name, shard.size, shard.sha256)
                os.close(handle)

    def _locked(self, name: str, *, wait: bool = True) -> AbstractContextManager[int]:
        """Hold the lock of one file of the cache, among all processes of this node."""
        return _locked(self.folder / f".{flat_name(name)}.lock", wait=wait)

    def _fetch(self, name: str, size: int, sha256: str) -> int:
        """Download one file and give it its name; its lock is held.

        Returns:
            A descriptor of the file, opened before it had a name by which others could remove it.
        """
        path, partial = self.folder / name, self.folder / f".{flat_name(name)}.partial"
        path.parent.mkdir(parents=True, exist_ok=True)
        url = storage.join(self.root, name)
        try:
            for pause in (*_PAUSES, None):
                try:
                    storage.download(url, partial)
                    handle = _open_checked(partial, size, sha256)
                    break
                except FileNotFoundError:
                    raise FetchError(f"{url} is missing") from None
                except Exception as error:  # every store has errors of its own
                    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                        raise  # this disk's fault; it will not get better
                    if pause is None:
                        raise FetchError(f"{url}: {error}") from error
                    time.sleep(pause)
            os.replace(partial, path)
            return handle
        finally:
            partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _room(self, shard: ShardInfo, lock: int) -> Iterator[None]:
        """Keep room for a shard on its way.

        Args:
            shard: of this set.
            lock: descriptor of its lock file; the lock is held.
        """
        if self.max_bytes is None:
            yield
            return
        os.ftruncate(lock, 0)  # of a killed process: nobody is to wait for it, this one least of all
        while not self._take_room(shard, lock, self.max_bytes):
            time.sleep(_ROOM_PAUSE)
        try:
            yield  # when this ends the shard counts by itself
        finally:
            os.ftruncate(lock, 0)

    def _take_room(self, shard: ShardInfo, lock: int, max_bytes: int) -> bool:
        """Remove the shards that were opened longest ago until another one fits, and reserve its room.

        Returns:
            False, and nothing is removed, where shards on their way leave too little room whatever is removed.
        """
        with self._locked("eviction"):
            coming = self._coming()
            if coming and coming + shard.size > max_bytes:
                return False
            tars = [path for path in self.folder.rglob("*") if path.suffix.lower() == ".tar" and path.is_file()]
            found = [(path, path.stat()) for path in tars]
            excess = sum(stat.st_size for _, stat in found) + coming + shard.size - max_bytes
            for path, stat in sorted(found, key=lambda item: item[1].st_mtime_ns):
                if excess <= 0:
                    break
                path.unlink()
                excess -= stat.st_size
            os.ftruncate(lock, shard.size)
            return True

    def _coming(self) -> int:
        """Bytes of shards that have room reserved; what killed processes left of theirs is removed."""
        total = 0
        for path in self.folder.glob(".*.lock"):
            reserved = path.stat().st_size
            if not reserved:
                continue
            try:
                with _locked(path, wait=False) as lock:
                    path.with_suffix(".partial").unlink(missing_ok=True)
                    os.ftruncate(lock, 0)
            except BlockingIOError:
                total += reserved
        return total


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[int]:
    """Hold a lock file, made if need be; gives its descriptor.

    Raises:
        BlockingIOError: another holds it, and `wait` is False.
    """
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file.fileno()  # closing the file releases the lock, and so does the death of this process


def _open_whole(path: Path, size: int) -> int | None:
    """A descriptor of a file of just this size; None when there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.fstat(handle).st_size == size:
        return handle
    os.close(handle)
    return None


def _open_checked(path: Path, size: int, sha256: str) -> int:
    """A descriptor of a downloaded file, which is on the disk to stay: a power cut leaves no name without its bytes.

    Raises:
        ValueError: it is not what the manifest says.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length != size:
            raise ValueError(f"{length} bytes came, the manifest says {size}")
        if _digest(file.fileno()) != sha256:
            raise ValueError("its sha256 is not the manifest's; run `python -m data_prep.verify`")
        os.fsync(file.fileno())
        return os.dup(file.fileno())


def is_sound(path: Path, size: int, sha256: str) -> bool:
    """Whether an index is there with this size and, unless it is larger than `HASH_LIMIT`, with this sha256."""
    handle = _open_whole(path, size)
    if handle is None:
        return False
    try:
        return size > HASH_LIMIT or _digest(handle) == sha256
    finally:
        os.close(handle)


def _digest(handle: int) -> str:
    """The sha256 of an open file that nothing was read from yet, in hexadecimal."""
    with open(handle, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat_name(name: str) -> str:
    """The path of a shard as the name of one file, another one for every path; that of a long one is its sha256."""
    flat = name.replace("%", "%25").replace("/", "%2F")
    return flat if len(flat.encode()) <= _MAX_FLAT else hashlib.sha256(name.encode()).hexdigest()


def user_cache() -> Path:
    """Where copies are kept that any program may remove."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steel"
