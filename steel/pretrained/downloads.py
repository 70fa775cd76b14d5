"""Downloads that end when nothing comes any more, and not before: by URL, from a store, from the hub."""

import logging
import queue
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import IncompleteRead
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from steel import storage

T = TypeVar("T")

SILENCE_S = 8.0
"""A download is given up once nothing of the file came for so long, be it while it is looked for, at its start or in
between, however long the whole takes."""
PIECES = 1 << 16, 1 << 22
"""Bytes asked of a store at a time, at least and at most: as many more as it answers faster."""
_BRISK = 0.1
"""Of `SILENCE_S`: a piece that came sooner is followed by one of twice the size."""
_HUB_SETTINGS = {"DOWNLOAD_CHUNK_SIZE": 1 << 14, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True}
"""Of the hub's library, for a download to be seen to move: 10 MB are written at a time otherwise; the transfer of its
own beside HTTP keeps to itself what has come, and how long it tries; and what it asks the hub of who is calling comes
first, and waits for 3 s where a mirror does not answer that."""


def fetch_url(url: str) -> bytes:
    """Over HTTP by the standard library, which needs no further package and obeys `HTTPS_PROXY`.

    Args:
        url: may begin with a login, as `https://user:password@host/`.

    Raises:
        OSError, HTTPException: not to be had; a `TimeoutError` as `within_silence`.
    """
    data = bytearray()

    def fetch() -> None:
        with urllib.request.urlopen(_request(url), timeout=SILENCE_S) as response:
            while piece := response.read1(PIECES[0]):
                data.extend(piece)
            promised = int(response.headers.get("Content-Length") or len(data))
        if len(data) < promised:
            raise IncompleteRead(bytes(data), promised - len(data))

    within_silence(fetch, lambda: len(data))
    return bytes(data)


def _request(url: str) -> urllib.request.Request:
    """With the login of `url` as a header, for the library takes none; where it is redirected nobody is told it."""
    parts = urlsplit(url)
    login, separator, host = parts.netloc.rpartition("@")
    if not separator:
        return urllib.request.Request(url)
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    basic = b64encode(unquote(login).encode()).decode()
    request.add_unredirected_header("Authorization", f"Basic {basic}")
    return request


def fetch_stored(find: Callable[[], str]) -> tuple[str, bytes]:
    """A file of a store, in pieces: no store says how far it is with one that is asked for at once.

    Args:
        find: gives its URL, and may ask the store for that.

    Returns:
        The URL and the file.

    Raises:
        FileNotFoundError, OSError: as the store says; a `TimeoutError` as `within_silence`.
    """
    data = bytearray()

    def fetch() -> str:
        url, length = find(), PIECES[0]
        size = storage.file_size(url)
        if size is None:
            raise FileNotFoundError(url)
        while len(data) < size:
            begun = time.monotonic()
            piece = storage.read_range(url, len(data), min(length, size - len(data)))
            if not piece:
                raise IncompleteRead(bytes(data), size - len(data))
            data.extend(piece)
            is_brisk = time.monotonic() - begun < _BRISK * SILENCE_S
            length = min(2 * length, PIECES[1]) if is_brisk else PIECES[0]
        return url

    url = within_silence(fetch, lambda: len(data))
    return url, bytes(data)


def fetch_from_hub(repository: str, files: tuple[str, ...], revision: str | None) -> Path:
    """The first of `files` that there is, from the cache or the network.

    Raises:
        OSError, HTTPError: not to be had; a `TimeoutError` as `within_silence`.
    """
    for name in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set")
    with _hub_as_needed():
        return _ask_hub(repository, files, revision)


def _ask_hub(repository: str, files: tuple[str, ...], revision: str | None) -> Path:
    # The hub's own downloads try six times and wait between; whether it answers is known after one.
    def fetch() -> str:
        name = _first_published(repository, files, revision)
        return huggingface_hub.hf_hub_download(repository, name, revision=revision)

    return Path(within_silence(fetch, partial(_count_bytes, repository)))


def _first_published(repository: str, files: tuple[str, ...], revision: str | None) -> str:
    """Of the names `files`, as the hub says."""
    for name in files:
        url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
        try:
            # Longer than the wait for it, so that one and the same line is told wherever nothing answers.
            huggingface_hub.get_hf_file_metadata(url, timeout=2 * SILENCE_S)
        except EntryNotFoundError:
            if name == files[-1]:
                raise
        else:
            return name
    raise AssertionError(files)


def _count_bytes(repository: str) -> int:
    """Of a repository in the cache: what is unfinished is among them, and what another process fetches while ours waits
    for it."""
    total = 0
    for path in (Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs").glob("*"):
        with suppress(FileNotFoundError):  # renamed at this moment
            total += path.stat().st_size
    return total


@contextmanager
def _hub_as_needed() -> Iterator[None]:
    """The hub's library with `_HUB_SETTINGS`, and without its lines for each request and retry; the one line that
    matters is ours."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx", "httpx2")]
    levels = [logger.level for logger in loggers]
    before = {name: getattr(constants, name) for name in _HUB_SETTINGS if hasattr(constants, name)}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for name in before:
        setattr(constants, name, _HUB_SETTINGS[name])
    try:
        yield
    except TimeoutError:  # what is given up goes on trying in its thread, and has nothing more to say
        levels = [logging.ERROR] * len(loggers)
        raise
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            setattr(constants, name, value)


def within_silence(task: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """What `task` gives, or its error; it runs in a thread of its own, as looking up a name has no timeout, and stores
    and the hub try again for minutes.

    Args:
        task: is left to itself once it is given up; its thread keeps no program from ending.
        progress: another number whenever something has come.

    Raises:
        TimeoutError: `progress` has stood still for `SILENCE_S`.
    """
    box: queue.Queue[Callable[[], T]] = queue.Queue(1)

    def work() -> None:
        try:
            value = task()
        except BaseException as error:
            raised = error  # `error` is gone when its block ends

            def fail() -> T:
                raise raised

            box.put(fail)
        else:
            box.put(lambda: value)

    threading.Thread(target=work, name="weights", daemon=True).start()
    seen, since = progress(), time.monotonic()
    while True:
        with suppress(queue.Empty):
            result = box.get(timeout=SILENCE_S / 20)
            break
        if (now := progress()) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= SILENCE_S:
            raise TimeoutError(f"nothing came for {SILENCE_S:g} s")
    return result()
