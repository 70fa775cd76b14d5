"""The stores behind URLs: the one place that knows fsspec."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from steel.errors import InputError, told_url
from steel.storage.locations import plain_scheme


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a remote `url` and the path in it.

    Raises:
        InputError: no such protocol, the package that speaks it is not installed, or a place in a file of another store
            (`zip://images::s3://bucket/a.zip`): names are joined at the end of a URL, which is behind that file's.
    """
    import fsspec  # here, because local work does not need it

    if "::" in url.partition("://")[2]:
        raise InputError(
            f"{told_url(url)}: places in archives and names with `::` cannot be used; unpack the one, rename the other"
        )
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(plain_scheme(url)))
    except (ImportError, ValueError) as error:
        raise InputError(f"{told_url(url)}: {error}") from error


def load_driver(url: str) -> None:
    """Import what speaks the protocol of a remote `url`, which can take seconds but asks no network.

    Raises:
        InputError: as `filesystem`.
    """
    import fsspec

    try:
        fsspec.get_filesystem_class(fsspec.utils.get_protocol(plain_scheme(url)))
    except (ImportError, ValueError) as error:
        raise InputError(f"{told_url(url)}: {error}") from error


@contextmanager
def store_of(url: str | os.PathLike[str]) -> Iterator[tuple[Any, str]]:
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
