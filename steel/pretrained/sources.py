"""Where published weights are: a hub and its cache on this machine, a file or folder, a URL."""

import json
import logging
import queue
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from steel import storage
from steel.errors import InputError, list_some
from steel.model.libraries import smp, timm
from steel.pretrained.licences import smp_licence

T = TypeVar("T")

ANSWER_S = 8.0
"""A server that has not answered by then is not there."""
FILE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Of weights in a folder or in a repository of the hub, in the order in which they are looked for."""
SETTINGS_NAME = "config.json"


@dataclass(frozen=True)
class Source:
    """A file of weights, and what stands beside it."""

    name: str
    """For people: `timm/resnet34.a1_in1k`, a path or a URL."""
    data: bytes = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`mean`, `std`, `license` and the like, where they are known."""


@dataclass(frozen=True)
class Published:
    """Where the weights of an encoder's name are published."""

    repository: str
    """Of the hub; nothing where there is a URL alone."""
    revision: str | None
    files: tuple[str, ...]
    url: str
    settings: Mapping[str, Any]


def read_source(weights: str, encoder: str) -> Source:
    """What `--model.weights` names for this encoder.

    Raises:
        InputError: not there, or not to be had from here; says what else to try.
    """
    if weights == "hub":
        published = find_published(encoder)
        return _read_hub(published, encoder) if published.repository else _read_url(published.url, published.settings)
    if weights.startswith(("http://", "https://")):
        return _read_url(weights, {})
    return _read_file(weights)


def find_published(encoder: str) -> Published:
    """Where smp or timm (`tu-...`) say that an encoder's weights are.

    Raises:
        InputError: there are none under that name.
    """
    if not encoder.startswith("tu-"):
        choices = smp.encoders.encoders[encoder]["pretrained_settings"]
        tag = "imagenet" if "imagenet" in choices else next(iter(choices))
        settings = {"license": smp_licence(encoder, tag)}
        return Published(choices[tag]["repo_id"], choices[tag]["revision"], FILE_NAMES[:1], "", settings)
    config = timm_settings(encoder)
    repository, _, revision = (config.get("hf_hub_id") or "").partition("@")
    if not repository and not config.get("url"):
        tagged = [f"tu-{name}" for name in timm.list_pretrained(f"{encoder[3:].partition('.')[0]}*")]
        other = f"some have other names: {list_some(tagged)}" if tagged else "train from scratch (none), or give a file"
        raise InputError(f"model.weights hub: nobody has published weights for encoder {encoder!r}; {other}")
    name = config.get("hf_hub_filename")
    return Published(repository, revision or None, (name,) if name else FILE_NAMES, config.get("url") or "", config)


def timm_settings(encoder: str) -> dict[str, Any]:
    """What timm says of the weights of a `tu-...` encoder (its default ones without a tag); nothing of others."""
    if not encoder.startswith("tu-"):
        return {}
    try:
        config = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"), allow_unregistered=True)
    except RuntimeError:  # a tag that there is not
        return {}
    return {} if config is None else dict(config.to_dict())


def _read_file(weights: str) -> Source:
    path = weights
    try:
        if storage.is_folder(path):
            name = next((n for n in FILE_NAMES if storage.exists(storage.join(path, n))), None)
            if name is None:
                raise InputError(f"model.weights {weights}: a folder without {' or '.join(FILE_NAMES)}; name the file")
            path = storage.join(path, name)
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"model.weights {weights}: no such file (or hub, none, a URL)") from None
    except InputError:
        raise
    except Exception as error:  # each store fails in its own way
        raise InputError(f"model.weights {weights}: cannot be read ({_reason(error)})") from error
    beside = storage.join(path.rpartition("/")[0] or ".", SETTINGS_NAME)
    return Source(weights, data, {} if storage.is_remote(path) else _read_settings(Path(beside)))


def _read_url(url: str, settings: Mapping[str, Any]) -> Source:
    """Over HTTP by the standard library, which needs no further package and obeys `HTTPS_PROXY`."""
    try:
        response = _within(ANSWER_S, lambda: urllib.request.urlopen(url, timeout=ANSWER_S))
        with response:
            return Source(url, response.read(), settings)
    except Exception as error:  # every transport fails in its own way, and each means the same to the user
        raise InputError(
            f"model.weights {url}: cannot be fetched ({_reason(error)}); fetch it elsewhere and give the file: "
            "--model.weights PATH"
        ) from error


def _read_hub(published: Published, encoder: str) -> Source:
    revision = published.revision
    try:
        with _quiet_hub():
            path = _fetch(published.repository, published.files, revision)
            settings = dict(published.settings)
            if not encoder.startswith("tu-"):  # timm has them in itself
                settings |= _fetch_settings(published.repository, revision)
    except Exception as error:
        raise InputError(
            f"model.weights hub: no weights for encoder {encoder!r} from {published.repository} "
            f"({published.files[0]}): {_reason(error)}; fill the hub's cache elsewhere and copy it (HF_HOME, with "
            "HF_HUB_OFFLINE=1), name a mirror (HF_ENDPOINT), or give a file (--model.weights PATH; none trains from "
            "scratch): docs/pretrained.md"
        ) from error
    name = f"{published.repository}@{revision}" if revision else published.repository
    return Source(name, path.read_bytes(), settings)


def _fetch(repository: str, files: tuple[str, ...], revision: str | None) -> Path:
    """The first of `files` that there is, from the cache or the network."""
    for name in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set")
    for name in files:
        url = huggingface_hub.hf_hub_url(repository, name, revision=revision)
        try:
            # The hub's own downloads try five times and wait between; whether it answers is known after one.
            _within(ANSWER_S, lambda url=url: huggingface_hub.get_hf_file_metadata(url, timeout=ANSWER_S))  # type: ignore[misc]
        except EntryNotFoundError:
            if name == files[-1]:
                raise
            continue
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    raise AssertionError(files)


def _fetch_settings(repository: str, revision: str | None) -> dict[str, Any]:
    """Nothing where they are not to be had: a cache may have been filled with the weights alone."""
    try:
        return _read_settings(_fetch(repository, (SETTINGS_NAME,), revision))
    except Exception:  # as above
        return {}


def _read_settings(path: Path) -> dict[str, Any]:
    """Of a file as timm and smp write it beside weights; nothing where there is none, or another program's."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    values = values.get("pretrained_cfg", values) if isinstance(values, dict) else {}
    return {name: values[name] for name in ("mean", "std", "license") if values.get(name)}


def _within(seconds: float, task: Callable[[], T]) -> T:
    """What `task` gives, or its error, if it comes in time: looking up a name has no timeout of its own."""
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
    try:
        return box.get(timeout=seconds)()
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hold back the hub's lines for each request and retry; the one line that matters is ours."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx", "httpx2")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
