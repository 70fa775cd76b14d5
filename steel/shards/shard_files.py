"""The files of a finished shard folder, local or remote: which there are, their bytes by offset, ahead of time too."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steel import storage
from steel.errors import InputError, list_some
from steel.shards.cache import ShardCache, is_sound
from steel.shards.format import INDEX_NAME, MANIFEST_NAME, MEND, Manifest, ShardInfo
from steel.shards.page_cache import ask_for

_MAX_OPEN = 256
"""Shards that a process keeps open."""
_DOWNLOADS = 4
"""Shards that the processes of a rank fetch ahead at a time, or one each."""


class DamagedError(ValueError):
    """Bytes of a shard are missing, or are not those that were written."""


class ShardFiles:
    """Opens shards where they are first read, and hands out their bytes. Safe to hand to worker processes."""

    def __init__(self, root: str, manifest: Manifest, cache: ShardCache | None) -> None:
        """Args:
        root: path or URL of the folder.
        manifest: of the set.
        cache: where copies of remote shards are kept; None of a local folder.
        """
        self._root, self._manifest, self._cache = root, manifest, cache
        self._handles: dict[int, int] = {}
        self._renewed: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_handles": {}}

    def __del__(self) -> None:
        if hasattr(self, "_handles"):
            self.close()

    def close(self) -> None:
        """Close all shards; the next read opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Bytes of a shard, by its number.

        Raises:
            DamagedError: there are not so many.
            ValueError, OSError: they cannot be read.
        """
        if length == 0:
            return b""
        handle = self._handles.get(shard)
        data = os.pread(self._open(shard) if handle is None else handle, length, offset)
        if len(data) != length:
            raise DamagedError("the shard is cut short")
        return data

    def renew(self, shard: int) -> bool:
        """Have a sound copy of a remote shard in whose local copy bytes were found wrong.

        Returns:
            Whether to read again: not where there is no such copy, nor a second time in this process.

        Raises:
            ValueError, OSError: none can be had.
        """
        if self._cache is None or shard in self._renewed:
            return False
        self._renewed.add(shard)
        handle = self._cache.renew(self._manifest.shards[shard])
        damaged = self._handles.pop(shard, None)
        if damaged is not None:
            os.close(damaged)
        self._keep(shard, handle)
        return True

    def ask_for(self, shard: int, offset: int, length: int) -> None:
        """Have bytes that will be read soon brought into the system's memory, without waiting for them.

        Does nothing for a remote shard that is not on this node. Errors are left to whoever reads them.
        """
        with contextlib.suppress(OSError):
            handle = self._handles.get(shard)
            if handle is None:
                info = self._manifest.shards[shard]
                handle = self._open_local(info) if self._cache is None else self._cache.open_held(info)
                if handle is None:
                    return
                self._keep(shard, handle)
            ask_for(handle, offset, length)

    def prefetch(self, part: int, num_parts: int) -> None:
        """Fetch remote shards into the cache ahead of their use.

        Each of `num_parts` processes begins with shards of its own. Does nothing when they would not all fit.
        """
        if self._cache is not None and self._cache.max_bytes is None:
            shards = self._manifest.shards
            first = part * len(shards) // num_parts
            self._cache.prefetch((*shards[first:], *shards[:first]), at_once=max(1, _DOWNLOADS // num_parts))

    def index(self) -> Path:
        """The index, or its local copy.

        Raises:
            InputError: missing, or not the one that the manifest describes.
        """
        manifest = self._manifest
        if self._cache is not None:
            return self._cache.local_file(INDEX_NAME, manifest.index_size, manifest.index_sha256)
        path = self._local(INDEX_NAME)
        if not path.is_file():
            raise InputError(f"{path}: missing; {MEND}")
        if not is_sound(path, manifest.index_size, manifest.index_sha256):
            raise InputError(f"{path}: not the index that {MANIFEST_NAME} describes; {MEND}")
        return path

    def check_sizes(self) -> None:
        """Raises InputError for shards of a local folder that are missing or of a wrong size, all at once."""
        shards = self._manifest.shards
        wrong = wrong_sizes(self._root, [(shard.name, shard.size) for shard in shards])
        if wrong:
            raise InputError(
                f"{self._root}: {len(wrong)} of {len(shards)} shards are missing or damaged: {list_some(wrong)}; "
                f"{MEND} (`python -m data_prep.verify` checks the bytes of the others)"
            )

    def _open(self, shard: int) -> int:
        """Open a shard and keep it open."""
        info = self._manifest.shards[shard]
        return self._keep(shard, self._open_local(info) if self._cache is None else self._cache.open_shard(info))

    def _open_local(self, info: ShardInfo) -> int:
        return os.open(self._local(info.name), os.O_RDONLY | os.O_CLOEXEC)

    def _keep(self, shard: int, handle: int) -> int:
        """Keep an opened shard open."""
        self._let_go()
        self._handles[shard] = handle
        return handle

    def _let_go(self) -> None:
        """Close what keeps removed copies on the disk, and the shard opened first when many are open."""
        if self._cache is not None and self._cache.max_bytes is not None:
            for shard in [s for s, handle in self._handles.items() if os.fstat(handle).st_nlink == 0]:
                os.close(self._handles.pop(shard))
        if len(self._handles) >= _MAX_OPEN:
            os.close(self._handles.pop(next(iter(self._handles))))

    def _local(self, name: str) -> Path:
        return storage.local_path(storage.join(self._root, name))


def wrong_sizes(root: str, expected: Iterable[tuple[str, int]]) -> list[str]:
    """The files of a folder, a path or URL, that are missing or of another size, each with what is wrong.

    Args:
        root: The folder.
        expected: Name and size in bytes of each file.
    """
    if storage.is_remote(root):  # one request for all
        found = {file.path: file.size for file in storage.list_files(root)}
        sizes = [(name, found.get(name), whole) for name, whole in expected]
    else:
        sizes = [(name, storage.file_size(storage.join(root, name)), whole) for name, whole in expected]
    return [
        f"{name} ({'missing' if size is None else f'{size} of {whole} bytes'})"
        for name, size, whole in sizes
        if size != whole
    ]
