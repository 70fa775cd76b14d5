"""A folder that appears under its name when everything in it is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_prep.folder import UNFINISHED, clear_unfinished, lock
from steel import storage
from steel.errors import InputError


class Unfinished(NamedTuple):
    """A folder to fill."""

    path: Path
    is_restart: bool
    """A run that was killed had begun here; what it wrote is gone."""


def check_free(out: str) -> Path:
    """The place of a local folder that is not there yet, or is empty.

    Raises:
        InputError: something is there, or in the way.
    """
    final = storage.local_path(out).resolve()  # where a link leads
    if final.is_dir() and any(final.iterdir()):
        raise InputError(f"{out}: is not empty; choose another --out")
    blocker = next(path for path in (final, *final.parents) if path.exists())
    if not blocker.is_dir():
        raise InputError(f"{out}: cannot be made, for {blocker} is no folder; choose another --out")
    return final


@contextmanager
def appearing_whole(out: str) -> Iterator[Unfinished]:
    """A folder beside a local one that takes its name when the block ends without an error; else it is removed.

    Raises:
        InputError: as `check_free`, or another job is writing there.
    """
    final = check_free(out)
    beside = final.with_name(f".{final.name}.unfinished")
    storage.make_folder(final.parent)
    storage.make_folder(beside)
    with lock(str(beside), shared=False):
        before = [path for path in beside.iterdir() if path.name != UNFINISHED]
        for path in before:
            storage.remove(path)
        try:
            yield Unfinished(beside, bool(before))
            clear_unfinished(str(beside))
            os.replace(beside, final)  # also in place of an empty folder
            storage.sync_to_disk(final.parent)
        except BaseException:
            storage.remove(beside)
            raise
